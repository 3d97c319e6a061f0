"""What a person sees of a training run: TensorBoard, one progress line, and a log file."""
