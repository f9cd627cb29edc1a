"""Programs of their own beside the server: `wsraw drill` and `wsraw conform`."""
