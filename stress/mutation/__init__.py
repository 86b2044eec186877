"""Mutation testing; the command is stress/mutants.py."""
