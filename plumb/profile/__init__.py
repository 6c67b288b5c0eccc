"""Numbers on what a sample goes through."""
