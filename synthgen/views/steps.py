"""How far a view may step."""

LARGEST_STEP = 100
"""In units of the latents' own spread: far beyond where any generator still draws something."""
