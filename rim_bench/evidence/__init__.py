"""Stored runs become rows, statistics, verdicts and ranks."""
