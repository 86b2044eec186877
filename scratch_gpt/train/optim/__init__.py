"""Optimizers, learning-rate schedules, Muon, and the moving average of the weights."""
