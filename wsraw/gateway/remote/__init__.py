"""Workers' links over libzmq: ROUTER sockets, keys, heartbeats, and when a worker is dead."""
