"""The commands of `synthgen`, one or one group a file; each turns options into a call of the function of its name."""
