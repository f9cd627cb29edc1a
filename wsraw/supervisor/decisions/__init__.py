"""Sans-I/O. What the supervisor decides: which processes should run."""
