"""TLS: the first message, the engine over memory, contexts, certificates, the queue."""
