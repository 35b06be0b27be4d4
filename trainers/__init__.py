"""The model side: encoder, losses, tDRO, fine-tuning, evaluation. Imports mixture; nothing in mixture imports it."""
