"""The models. Every file here travels with a checkpoint, so it imports torch, transformers and its siblings only."""
