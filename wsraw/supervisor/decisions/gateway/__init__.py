"""Decisions about the gateway alone: whether it answers, and its upgrade."""
