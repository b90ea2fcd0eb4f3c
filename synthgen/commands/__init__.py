"""Commands of `synthgen` that have a file of their own, one subject each."""
