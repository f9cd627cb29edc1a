"""The commands of `wsraw`, one module a group. Each imports what it needs when it runs."""
