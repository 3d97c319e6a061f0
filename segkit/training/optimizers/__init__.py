"""Optimizers, one a file: ``build(groups, lr, ...)``."""
