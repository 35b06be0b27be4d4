"""One normal form of texts, and whole columns of them at a time. Ingest, dedup and mining stand on it."""
