"""The training loop, and what is around it: startup, command line, signals, reports and plots. It knows no task."""
