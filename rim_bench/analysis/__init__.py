"""What a trained model's answers depend on: interventions on what stands between a question and its answer."""
