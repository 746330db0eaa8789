"""Smaller numbers for a trained network: which layers get them, by which package, and the file that keeps them."""
