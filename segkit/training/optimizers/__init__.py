"""Optimisers, one a file: ``build(groups, lr, ...)``."""
