"""Changes to how samples are made: found, validated, and timed."""
