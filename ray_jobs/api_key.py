"""`changenet api-key`: a key for the service. The file gets its hash; the key itself is shown once. Needs no Ray."""

from __future__ import annotations

from ray_jobs.console import err, out
from serve import keys


def run(path: str, name: str, *, admin: bool = False) -> int:
    """Add a key to a file of keys (raises as `keys.add_key`); stdout gets the key and nothing else."""
    key = keys.add_key(path, name, admin=admin)
    may = "inspect and change what is served" if admin else "inspect"
    err.print(f"{path} knows {name} now, who may {may}. This is the only time the key is shown:", soft_wrap=True)
    out.print(key, soft_wrap=True)
    return 0
