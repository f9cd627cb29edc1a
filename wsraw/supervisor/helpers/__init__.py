"""Processes beside the run that never delay it: the admin process, the agent of a cluster."""
