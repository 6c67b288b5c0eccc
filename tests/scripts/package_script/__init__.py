"""A training script that is a module of a package: python -m package_script.train."""
