"""From files in the formats people have to Arrow batches: discover, read, normalise."""
