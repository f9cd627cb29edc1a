"""Sans-I/O. The version of the code that runs here; on disk there may be another one by now."""

VERSION = "0.1.0"
