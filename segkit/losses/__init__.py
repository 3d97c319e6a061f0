"""Losses, one a file: ``build(num_classes, ...)``."""
