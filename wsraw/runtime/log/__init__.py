"""Lines of the log: how they leave a child, and how they are written."""
