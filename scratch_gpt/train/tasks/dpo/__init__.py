"""Direct preference optimization of GPTs."""
