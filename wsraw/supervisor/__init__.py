"""The parent process: it starts, restarts and stops the gateway and the workers."""
