"""The supervisor becomes another version of itself: a new program in the same process."""
