"""Smaller models: which layers and inner channels of a trained retriever can go."""
