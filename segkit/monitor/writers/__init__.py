"""What a run records, and where to: one writer a file."""
