"""A request becomes planned runs, then trained and evaluated runs."""
