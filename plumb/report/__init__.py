"""Plan -> terminal, HTML, JSON. Nothing is computed here that the plan does not hold."""

import importlib
import random

# To import rich draws from Python's generator, which is the user's, who may have seeded it.
_drawn = random.getstate()
importlib.import_module("rich.style")
random.setstate(_drawn)
