"""Sans-I/O. Which worker handles which connection, and how many bytes may wait."""
