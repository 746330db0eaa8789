"""How well a network decides: curves, metrics, thresholds and the report that people read."""
