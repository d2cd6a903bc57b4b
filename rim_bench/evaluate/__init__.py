"""A trained model answers questions: outputs, scores, costs, latency."""
