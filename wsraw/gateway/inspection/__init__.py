"""What operators ask about connections: to list them, to look at one, to act on them."""
