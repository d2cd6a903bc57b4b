"""Task files become hashed, split-checked examples; answers are scored."""
