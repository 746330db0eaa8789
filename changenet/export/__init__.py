"""From a checkpoint to files that run without PyTorch, each checked against the network it came from."""
