"""Real measurements of configurations that the model ranked."""
