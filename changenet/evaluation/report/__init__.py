"""The evaluation report: plots, the pairs worth looking at, and one HTML file that needs nothing else."""
