"""The workers' links: batches, sessions, commands."""
