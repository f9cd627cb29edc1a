"""The log and the output of a worker."""
