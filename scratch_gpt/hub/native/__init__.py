"""The same weights in transformers' own classes, both ways."""
