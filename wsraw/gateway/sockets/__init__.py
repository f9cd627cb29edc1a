"""I/O. The client sockets: nothing else reads, writes or closes one."""
