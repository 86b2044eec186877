"""Cost of a training run before it starts: measured on this machine, or estimated for named accelerators."""
