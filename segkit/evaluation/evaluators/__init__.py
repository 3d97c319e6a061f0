"""What is measured on predictions: one evaluator a file, each an accumulator of its own."""
