"""Conversion of weights between our classes and transformers' own, in both directions."""
