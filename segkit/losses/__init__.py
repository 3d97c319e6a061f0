"""Losses, one per file: ``build(num_classes, ...)``."""
