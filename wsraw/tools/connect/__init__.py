"""`wsraw connect`: an interactive client for WebSockets, TCP, TLS and unix sockets."""
