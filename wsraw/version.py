"""Sans-I/O. The version of the running code; the code on disk may be another version."""

VERSION = "0.1.0"
