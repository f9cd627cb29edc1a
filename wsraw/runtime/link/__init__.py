"""The worker link on this machine: ZMTP over sockets of our own, without libzmq."""
