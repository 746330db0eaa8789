"""Picture pairs: from CSV rows and files to `uint8` tensors, and the check of both before anything is trained."""
