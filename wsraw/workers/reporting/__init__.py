"""The log, the output and the statistics of a worker."""
