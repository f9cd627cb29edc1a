"""I/O. Client sockets: accepting, reading, writing and closing them.

Apart from this package, only the pumps of an upgrade (gateway/handover/) read or write one.
"""
