"""A configuration -> a running loader."""
