"""Evaluators: metrics of predictions, one per file, each with its own accumulator."""
