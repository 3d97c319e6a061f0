"""Networks: a backbone gives four stages, heads give logits, the segmenter joins them."""
