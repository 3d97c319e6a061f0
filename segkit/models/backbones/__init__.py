"""Backbones: ``build(num_classes, ...)`` gives a network whose ``forward`` gives four stages."""
