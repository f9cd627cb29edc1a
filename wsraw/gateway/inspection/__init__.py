"""What an operator asks of connections: to list them, to look at one, to act on them."""
