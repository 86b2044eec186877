"""The training loop, startup, command line, signals, reports and plots; all of it independent of the task."""
