"""Supervised fine-tuning of GPTs on conversations."""
