"""I/O. What a service manager such as systemd passes to a run, and what the run reports to it."""
