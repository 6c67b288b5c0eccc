"""Operators of samples that run behind collate."""
