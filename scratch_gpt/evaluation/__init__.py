"""Evaluation of models: metrics, and reports of generated texts and predictions."""
