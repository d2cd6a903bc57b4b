"""rim-bench: what latent reasoning in language models is worth, measured."""

__version__ = "0.1.0"
