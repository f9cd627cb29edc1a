"""Sans-I/O. The WebSocket protocol (RFC 6455, RFC 7692): handshake, frames, messages."""
