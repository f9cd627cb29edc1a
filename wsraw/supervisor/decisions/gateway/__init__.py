"""Decisions about the gateway alone: its health check and its upgrade."""
