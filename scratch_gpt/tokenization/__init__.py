"""Text to numbers and back: tokenizers trained with the `tokenizers` library."""
