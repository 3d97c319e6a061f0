"""Heads: ``build(in_channels, num_classes, output_stride, align_corners, ...)``; stages to logits."""
