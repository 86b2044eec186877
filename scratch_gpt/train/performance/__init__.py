"""Performance of a training step: attention implementations, compiled blocks, and passes over compiled graphs."""
