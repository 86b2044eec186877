"""How good a model is: losses, and what it writes."""
