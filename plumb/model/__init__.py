"""The performance model: from costs, limits and a configuration to a prediction with its reason."""
