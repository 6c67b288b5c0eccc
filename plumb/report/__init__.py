"""What was found, for people: terminal, HTML, JSON."""
