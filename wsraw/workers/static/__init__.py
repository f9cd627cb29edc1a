"""The handlers of the setting `static`: they answer requests with files."""
