"""I/O. What a service manager such as systemd passes to a run, and what it is told about the
run."""
