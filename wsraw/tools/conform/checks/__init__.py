"""The rules that have a script of their own."""
