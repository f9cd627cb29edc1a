"""Requests to a run: from the command line, from the gateway, by signals."""
