"""What the command line, the gateway and the supervisor say to each other."""
