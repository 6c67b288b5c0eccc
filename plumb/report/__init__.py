"""Plan -> terminal, HTML, JSON. Nothing is computed here that the plan does not hold."""
