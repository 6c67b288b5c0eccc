"""Predictions -> measured truth."""
