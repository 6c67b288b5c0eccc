"""Small random training scripts, and the checks that plumb must pass on each of them.

A seed gives a `Recipe` (what the script does), the recipe gives the source, and `run_seed` runs that plainly, under
`plumb tune` and under `plumb run`, and compares. `python -m tests.random_scripts --seeds 0:1000` runs many.
"""
