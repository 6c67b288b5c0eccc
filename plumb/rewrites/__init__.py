"""What may be changed in how samples are made: found, validated, and timed."""
