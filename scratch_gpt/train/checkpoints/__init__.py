"""Saving and resuming: checkpoints, their manifests, random states, and the background writer."""
