"""Finding, loading and checking a handlers file."""
