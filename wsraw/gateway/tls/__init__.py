"""TLS: the first message, the engine over memory, certificates."""
