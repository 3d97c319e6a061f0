"""Backbones: ``build(num_classes, ...)`` returns a network whose ``forward`` returns four stages."""
