"""Sans-I/O. How this gateway works together with the others of a cluster."""
