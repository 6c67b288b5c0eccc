"""The sample store: folders, LMDB, encoding, limits."""
