"""Benchmarks: each module prints what it measured, and writes it to `analysis/results/`."""

import warnings

# Torch advises against more workers than cores, which is one of the things to be measured.
warnings.filterwarnings("ignore", message="This DataLoader will create")
