"""A drill: verified load on a run while its workers are killed, hung, stopped and replaced."""
