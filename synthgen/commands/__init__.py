"""Commands of `synthgen`, one a file; `synthgen.cli` puts them together."""
