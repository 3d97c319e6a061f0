"""Convert files of label tools to training data, and propose class tables for masks."""
