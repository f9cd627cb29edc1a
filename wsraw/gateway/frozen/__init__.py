"""The state of a running gateway as versioned records: taken from one process, given to another."""
