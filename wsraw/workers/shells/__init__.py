"""I/O. The drivers of the runtime: a blocking loop for plain handlers, asyncio for async ones."""
