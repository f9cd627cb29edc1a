"""Fault injection under verified load: workers are killed, hung, suspended and replaced."""
