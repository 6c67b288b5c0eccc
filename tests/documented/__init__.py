"""What torch documents for its `DataLoader`, as small cases; `python -m documented` runs them in all ways."""
