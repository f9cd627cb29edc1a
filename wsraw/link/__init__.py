"""Sans-I/O. The worker link: its records, the state of both ends, and its bytes on the wire."""
