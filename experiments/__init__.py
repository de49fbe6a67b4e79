"""Experiments: one question a module. `python -m experiments.NAME --help`."""
