"""`wsraw top`: the present state of a run, shown repeatedly."""
