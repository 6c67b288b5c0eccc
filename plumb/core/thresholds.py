"""Thresholds by which tunings decide and reports say why: both must mean the same."""

NOISE = 0.10
"""Rates of single runs that differ by less than this share don't show which one is better."""
EQUAL = 0.02
"""Rates that differ by less than this share count as equal: the cheaper configuration is chosen."""
NOTHING_TO_GAIN = 0.03
"""If the loop waits for less than this share of its time, no configuration can gain a measurable amount."""
CROWD_CPUS = 0.1
"""A load of other processes below this number of CPUs explains nothing."""
WIDE = 20.0
"""Bounds of a ratio that are further apart than this multiple tell nothing."""
LONGEST_BUDGET_SECONDS = 1e7
"""No tuning takes longer, so that a larger budget is a mistake."""
