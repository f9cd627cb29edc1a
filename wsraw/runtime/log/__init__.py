"""Lines of the log: how they leave a child, and in which format they are written."""
