"""Sans-I/O. Which clients may connect, and which pool serves them."""
