"""The model: a sentence-transformers encoder, its adapters, and tiny ones built from the data."""
