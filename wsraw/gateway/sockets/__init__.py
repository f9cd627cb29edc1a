"""I/O. The only place that holds sockets of clients."""
