"""Interoperability: model directories, loading, model cards, the Hub, and conversion to transformers' own classes."""
