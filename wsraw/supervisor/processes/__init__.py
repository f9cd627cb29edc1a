"""I/O. Child processes: start, stop, read, reap."""
