"""The admin page: one HTML file, the stream that keeps it up to date, and its actions."""
