"""HTTP requests that handlers answer: each request and its response is a connection of its own."""
