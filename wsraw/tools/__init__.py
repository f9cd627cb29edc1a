"""Programs beside the server: `wsraw connect`, `top`, `drill` and `conform`."""
