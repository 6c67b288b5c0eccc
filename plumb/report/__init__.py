"""Reports of a plan for the terminal, HTML and JSON. Everything they show is in the plan or computed by the model."""

import importlib
import random

# Importing rich draws from Python's generator, which the user may have seeded, so its state is restored.
_drawn = random.getstate()
importlib.import_module("rich.style")
random.setstate(_drawn)
