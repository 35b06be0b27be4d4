"""From row numbers to embeddings: the texts of a batch, its tokens, what fits into memory."""
