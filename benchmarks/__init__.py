"""How the figures are taken: see README.md in this folder."""
