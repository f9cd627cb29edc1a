"""Programs of their own beside the server: `wsraw connect`, `wsraw drill` and `wsraw conform`."""
