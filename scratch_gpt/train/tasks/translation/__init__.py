"""Translation, with encoder-decoders."""
