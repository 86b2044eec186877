"""From examples to batches: tokenised texts, packed rows, buckets of similar length."""
