"""Layers of the networks; each file states its equation."""
