"""The compiler of training and inference programs for dense networks."""
