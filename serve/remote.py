"""Models with replicas of their own, reached through Ray Serve: what is busy, dead or away ends as 503, for its clients alone."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from serve.forwarding import Absence, Answered, Forwarded
from serve.problems import HttpError, try_again
from serve.resending import attempts_for, unanswered

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from ray.serve.schema import DeploymentStatusOverview

FRESH_SECONDS = 1.0
STATUS_SECONDS = 5.0
PAUSE_SECONDS = 0.2

# How a deployment is that has no replica and wants none, or wants one since a moment ago.
_SCALED_TO_ZERO = {
    "HEALTHY": "It sleeps: the next request starts a replica.",
    "DOWNSCALING": "It falls asleep: the next request starts a replica.",
    "UPSCALING": "It wakes up.",
}

logger = logging.getLogger(__name__)

Overviews = Mapping[str, "DeploymentStatusOverview"]


class Deployments:
    """How the deployments of an application are; health is open to everybody, so Ray Serve is asked once a second at most.

    Args:
        read: Asks it; takes its time.
    """

    def __init__(self, read: Callable[[], Overviews]) -> None:
        self._read = read
        self._known: Overviews = {}
        self._asking: asyncio.Task[Overviews] | None = None
        self._asked = -FRESH_SECONDS

    async def overview(self, deployment: str) -> DeploymentStatusOverview | None:
        """Return how a deployment is; None where Ray Serve does not say."""
        if self._asking is None and time.monotonic() - self._asked >= FRESH_SECONDS:
            self._asking = asyncio.create_task(asyncio.to_thread(self._read))
        if self._asking is not None:
            asking = self._asking
            await asyncio.wait({asking}, timeout=STATUS_SECONDS)
            if asking.done() and self._asking is asking:
                self._asking, self._asked = None, time.monotonic()
                self._known = {} if asking.exception() else asking.result()
            elif not asking.done():
                return None
        return self._known.get(deployment)


class RayModel:
    """One model in a deployment of its own.

    Args:
        name: The name that clients use.
        handle: Of the deployment.
        deployments: How they are.
    """

    def __init__(self, name: str, handle: DeploymentHandle[Any], deployments: Deployments) -> None:
        self.name = name
        self._deployment = handle.deployment_name
        self._answer = handle.options(method_name="answer")
        self._deployments = deployments

    async def ask(self, request: Forwarded, *, seconds: float) -> Answered:
        """Let one of its replicas answer; one that dies meanwhile is replaced by another (raises 503, or 500 `broken-off`)."""
        attempts = attempts_for(request.path)
        try:
            async with asyncio.timeout(seconds):
                for attempt in range(1, attempts + 1):
                    try:
                        return await self._once(request)
                    except RayServeException as error:
                        if isinstance(error, BackPressureError) or attempt == attempts:
                            raise self._unavailable(error) from error
                    except RayTaskError:  # a mistake of ours, which belongs into the log
                        raise
                    except RayError as error:
                        if attempts == 1:
                            raise unanswered(request.path) from error
                        if attempt == attempts:
                            raise self._unavailable(error) from error
                    await asyncio.sleep(attempt * PAUSE_SECONDS)
        except TimeoutError as error:
            raise (unanswered(request.path) if attempts == 1 else self._unavailable(error)) from error
        raise AssertionError("the last attempt returns or raises")

    async def absence(self) -> Absence | None:
        """Say why none of its replicas runs; None where one does, or where nobody knows."""
        overview = await self._deployments.overview(self._deployment)
        if overview is None or any(state == "RUNNING" and count for state, count in overview.replica_states.items()):
            return None
        if overview.status in _SCALED_TO_ZERO:
            return Absence(_SCALED_TO_ZERO[overview.status], sleeps=True)
        return Absence(reason_in(overview.message) or f"None of its replicas runs ({overview.status.value.lower()}).")

    async def _once(self, request: Forwarded) -> Answered:
        response = self._answer.remote(request)
        try:
            answered: Answered = await response
        except asyncio.CancelledError:  # the client has gone, or the time is over
            response.cancel()
            raise
        return answered

    def _unavailable(self, error: Exception) -> HttpError:
        logger.warning("No replica of %r answers: %s: %s", self.name, type(error).__name__, error)
        busy = isinstance(error, BackPressureError)
        detail = "has all the requests it can take" if busy else "is not there at the moment"
        return try_again("overloaded" if busy else "model-away", f"The model {self.name!r} {detail}.")


def reason_in(message: str) -> str:
    """Return the last line of the traceback that a replica left with Ray Serve, without the exception's type."""
    lines = [line for line in message.splitlines() if re.match(r"[\w.]+: ", line)]
    return lines[-1].split(": ", 1)[1] if lines else ""
