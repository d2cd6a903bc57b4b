"""One packed forward pass, one training loop, one decoder, for every method."""
