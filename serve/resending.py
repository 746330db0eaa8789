"""What is sent to another replica when one dies: one policy, whatever stands in front of the replicas.

That is HAProxy (`serve.haproxy`), Ray Serve's proxy (`serve.retry`), or a replica that passes requests on to those of one model
(`serve.remote`). docs/serving.md has it as a table.
"""

from __future__ import annotations

import re

from serve.problems import HttpError, try_again

ATTEMPTS = 3
# Larger bodies are not kept until they are answered, so they cannot be sent again.
KEPT_BYTES = 64 << 20
ONCE_ONLY = (
    "/v1/models/[^/]+/(swap|rollback)"  # a pattern; sent again, they could do something else than the first time
)


def attempts_for(path: str) -> int:
    """Return how many replicas a request to this path may be sent to."""
    return 1 if re.fullmatch(ONCE_ONLY, path) else ATTEMPTS


def unanswered(path: str) -> HttpError:
    """Return what a client is told whose request no replica answered: 503, it may be sent again; 500, perhaps not."""
    if re.fullmatch(ONCE_ONLY, path):
        detail = "The replica that had this request died or takes too long. Look at GET /v1/models what was done before you send it again."
        return HttpError(500, "broken-off", detail)
    return try_again("no-replica", "No replica answered.")
