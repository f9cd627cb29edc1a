"""The handler process: it runs the user's functions, and knows the gateway by its link alone."""
