"""I/O. What drives the runtime: a blocking loop for plain handlers, asyncio for async ones."""
