"""What `rim-bench bench` measures: training, answering, first tokens, memory, overhead, scaling. Ratios of interleaved rounds."""
