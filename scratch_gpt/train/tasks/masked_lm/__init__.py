"""Masked language modelling: encoders, pre-trained on text."""
