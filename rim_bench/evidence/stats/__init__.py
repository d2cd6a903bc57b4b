"""Intervals, tests and power of accuracies. Nothing here knows what a run is."""
