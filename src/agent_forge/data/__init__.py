"""Text on its way to a model: sources, filters, splits, tokenizer, packed batches, and a world of our own."""
