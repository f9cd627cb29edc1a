"""How a handlers file is found, loaded and checked."""
