"""Who calls the renderer, and where: one runner a file. A runner decides no pixel."""
