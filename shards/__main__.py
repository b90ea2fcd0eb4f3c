"""`python -m shards` is the command `shards`."""

from shards.cli import main

main(prog_name="shards")
