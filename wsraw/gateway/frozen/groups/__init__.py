"""The last messages of groups to records and back."""
