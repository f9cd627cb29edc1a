"""Sans-I/O. The life of one connection, accepted or opened."""
