"""The run under test: its processes, its handlers, its control endpoint."""
