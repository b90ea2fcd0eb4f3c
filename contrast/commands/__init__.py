"""Commands of `contrast` that stand in a file of their own; contrast.cli registers them."""
