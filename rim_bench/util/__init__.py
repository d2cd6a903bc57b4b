"""Errors, atomic files, tables and numbers as text: what every room may use."""
