"""The agent process: it speaks NATS for the gateway beside it, so that many gateways are one."""
