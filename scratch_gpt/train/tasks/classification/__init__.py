"""Text classification, with encoders and GPTs."""
