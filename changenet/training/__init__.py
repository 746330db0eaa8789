"""Plain PyTorch training: losses, optimisers, the loop over one epoch, checkpoints. Knows neither Ray nor the spec."""
