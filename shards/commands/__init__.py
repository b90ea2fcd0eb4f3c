"""Commands of `shards`, a file each; shards/cli.py registers them."""
