"""The arguments of a training run: one field is one flag with one sentence of help."""
