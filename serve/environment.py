"""What Ray has to find in its environment where it starts; `changenet serve` sees to that for a Ray of its own."""

from __future__ import annotations

from serve import retry

ENVIRONMENT = {
    retry.VARIABLE: retry.CALLBACK,
    # Another proxy starts after three failed checks: with Ray's 10 s between them nobody would listen for half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # On a busy machine a proxy takes longer to start than the 5 s after which Ray would kill it.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    # At Ray's 15 whatever else the machine does would go before replicas and proxy.
    "RAY_worker_niceness": "0",
}
