"""Planting small bugs and running the tests that reach them; the command is stress/mutants.py."""
