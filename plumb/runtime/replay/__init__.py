"""Samples whose calls are answered with stored values."""
