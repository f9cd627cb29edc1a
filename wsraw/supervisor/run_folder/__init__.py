"""I/O. The run folder, and the files in it."""
