"""Sans-I/O. What the other gateways of a cluster have to do with this one."""
