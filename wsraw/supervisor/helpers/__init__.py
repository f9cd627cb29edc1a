"""Processes beside the run, and never in its way: the admin process, the agent of a cluster."""
