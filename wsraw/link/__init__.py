"""Sans-I/O. The worker link: its records, and the state of both ends."""
