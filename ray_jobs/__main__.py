"""`python -m ray_jobs ACTION …`: what `ray job submit` runs."""

from ray_jobs.cli import app

app(prog_name="changenet")
