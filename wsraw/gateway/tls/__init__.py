"""TLS: the first message, the engine over memory buffers, contexts, the queue of handshakes."""
