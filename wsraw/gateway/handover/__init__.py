"""How a gateway hands everything over to its successor, and how the successor takes it over."""
