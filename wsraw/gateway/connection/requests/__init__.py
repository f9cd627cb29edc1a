"""HTTP requests that handlers answer: one request and its response, and a connection meanwhile."""
