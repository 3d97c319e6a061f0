"""Monitoring of a training run: writers such as TensorBoard, the console and the log file."""
