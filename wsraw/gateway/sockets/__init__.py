"""I/O. Client sockets: only the pumps of an upgrade (gateway/handover/) read or write one, too."""
