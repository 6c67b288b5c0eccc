"""Configuration, plan, events, errors, units: data that every room may use; imports nothing else of plumb."""
