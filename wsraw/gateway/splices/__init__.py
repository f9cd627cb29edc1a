"""Connections between which the gateway forwards, without a worker."""
