"""What the workers of a pool share: timers that one of them calls, and canaries among them."""
