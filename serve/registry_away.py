"""The folder that all replicas see may be away for a while: a share that is not mounted, a store that does not answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from changenet.errors import ChangeNetError
from serve.problems import HttpError

AWAY = 503
RETRY_AFTER_SECONDS = 5

logger = logging.getLogger(__name__)


@contextmanager
def or_away() -> Iterator[None]:
    """Let whatever a file system or a client of an object store raises be a problem (503); decorates functions, too."""
    try:
        yield
    except (ChangeNetError, HttpError):
        raise
    except Exception as error:
        logger.warning("The folder of goldens and changes cannot be used: %s: %s", type(error).__name__, error)
        raise HttpError(
            AWAY,
            "registry-away",
            f"The folder of goldens and changes cannot be used ({type(error).__name__}). Try again in a moment.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        ) from error
