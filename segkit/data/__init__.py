"""Data sets, their label tables, what is drawn from them, and in which order."""
