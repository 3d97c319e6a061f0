"""Optimizers, one per file: ``build(groups, lr, ...)``."""
