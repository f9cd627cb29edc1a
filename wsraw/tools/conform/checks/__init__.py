"""The rules that have a check of their own."""
