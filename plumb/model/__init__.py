"""Numbers, limits and a configuration -> a prediction with its reason."""
