"""How a gateway hands all it has over to its successor, and how that takes it over."""
