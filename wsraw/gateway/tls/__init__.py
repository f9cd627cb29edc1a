"""TLS: the first message, the engine over memory, contexts, the queue."""
