"""Blocks the networks are made of; each file states its equation."""
