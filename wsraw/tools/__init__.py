"""Programs of their own beside the server: `wsraw connect`, `top`, `drill` and `conform`."""
