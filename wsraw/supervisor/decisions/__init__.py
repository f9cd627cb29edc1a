"""Sans-I/O. What the supervisor decides: which processes there are to be."""
