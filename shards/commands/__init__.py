"""Commands of `shards` with a file of their own."""
