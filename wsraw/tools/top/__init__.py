"""`wsraw top`: a run as it is now, again and again."""
