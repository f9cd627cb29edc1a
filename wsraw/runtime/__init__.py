"""Code that the processes share: the loop, listening sockets, descriptors, keys."""
