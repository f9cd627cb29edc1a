"""Connections between which the gateway forwards data, without a worker."""
