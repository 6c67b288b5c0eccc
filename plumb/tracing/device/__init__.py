"""Operators timed on a device."""
