"""Texts: where they come from, how they become token shards, and how shards become batches."""
