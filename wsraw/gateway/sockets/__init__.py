"""I/O. Client sockets. Apart from this package, only the pumps of an upgrade (gateway/handover/)
read or write one."""
