"""Commands of `contrast`, a file each; contrast/cli.py registers them."""
