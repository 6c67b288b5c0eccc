"""Loaders that run on a configuration."""
