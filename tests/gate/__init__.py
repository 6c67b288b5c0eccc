"""The gate: training programs as people publish them, which plumb must tune, run, and leave as they are."""
