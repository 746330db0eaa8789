"""The inspection service on Ray Serve."""
