"""Sessions of workers: batches, commands, how they begin and end."""
