"""The run that is drilled."""
