"""The I/O process: it owns every socket and never runs user code."""
