"""What to tell a person when Ray, a machine that it runs on, or a disk fails: one line in the place of a traceback."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator, Mapping

from changenet.errors import ChangeNetError, Problem

_AGAIN = (
    "Run the same command again: training goes on from its last checkpoint, and by itself with train.ray.max_failures."
)
_LESS = (
    "Free the machine or take a larger one, fewer workers, or a smaller batch_size; then run the same command again."
)
_ROOM = "See `ray status`; ask for fewer workers or resources, or add nodes."
# By the name of the exception or of one that it is derived from; Ray moves its classes, and keeps their names.
_TOLD: Mapping[str, tuple[str, str]] = {
    "OutOfMemoryError": ("a machine ran out of memory", _LESS),
    "OutOfDiskError": (
        "the disk of a machine is full",
        "Make room in its temporary folder, then run the same command again.",
    ),
    "ObjectStoreFullError": ("the object store of a machine is full", _LESS),
    "ActorUnschedulableError": ("there is no room on the cluster for a process of the run", _ROOM),
    "TaskUnschedulableError": ("there is no room on the cluster for a process of the run", _ROOM),
    "InsufficientClusterResourcesError": ("there is no room on the cluster for the workers", _ROOM),
    "RuntimeEnvSetupError": ("a machine could not be set up for the run", "See the log of the Ray on that machine."),
    "WorkerGroupStartupTimeoutError": ("the workers did not start in time: the machines are overloaded", _LESS),
    "WorkerGroupStartupFailedError": ("the workers did not start", _AGAIN),
    "WorkerHealthCheckTimeoutError": (
        "a worker did not answer in time: its machine is overloaded, or out of reach",
        _AGAIN,
    ),
    "WorkerHealthCheckFailedError": ("a worker, or its machine, is gone", _AGAIN),
    "CollectiveTimeoutError": (
        "workers waited too long for each other: a machine is overloaded, or out of reach",
        _AGAIN,
    ),
    "GetTimeoutError": ("a machine of the cluster did not answer in time: it is overloaded, or out of reach", _AGAIN),
    "RpcError": ("a machine of the cluster is out of reach", _AGAIN),
    "AuthenticationError": ("the cluster lets this process in no more", "See that the token is the cluster's."),
    "PreemptionError": ("a machine was taken away", _AGAIN),
    "NodeDiedError": ("a machine of the run is gone", _AGAIN),
    "RayActorError": ("a process of the run, or its machine, is gone", _AGAIN),
    "WorkerCrashedError": ("a process of the run, or its machine, is gone", _AGAIN),
    "LocalRayletDiedError": ("the Ray of this machine is gone", _AGAIN),
    "ObjectLostError": ("what a machine held is gone with it", _AGAIN),
}
# What the workers that are left say, which PyTorch raises without a class of its own.
_LOST_TOUCH = re.compile(r"gloo|nccl|Connection (closed|reset) by peer", re.IGNORECASE)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_LONGEST = 300  # characters of Ray's own words


def ours(error: BaseException | None) -> ChangeNetError | None:
    """Return the error of ours that is behind one of Ray's, or None."""
    return next((each for each in _causes(error) if isinstance(each, ChangeNetError)), None)


def cluster_failure(error: BaseException) -> Problem | None:
    """Return what failed and what to do; None where a program failed, whose traceback is wanted."""
    if "ray" not in sys.modules:
        return None
    for each in _causes(error):
        names = [kind.__name__ for kind in type(each).__mro__]
        if getattr(each, "_actor_init_failed", False):  # not the cluster: an error in our code that starts the process
            return None
        told = next((_TOLD[name] for name in names if name in _TOLD), None)
        if told is None and isinstance(each, RuntimeError) and _LOST_TOUCH.search(str(each)):
            told = "a worker lost touch with the others", _AGAIN
        if told is None and is_full(each):
            told = "the disk of a machine is full", "Make room where the results go, then run the same command again."
        if told is not None:
            what, fix = told
            return Problem(f"{what} ({names[0]}: {last_words(each)})", fix=fix)
    return None


def is_full(error: BaseException) -> bool:
    """Say whether a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def file_failure(error: BaseException) -> Problem | None:
    """Return which file could not be used and what to do; None where an error is about no file."""
    if not isinstance(error, OSError) or (error.filename is None and not is_full(error)):
        return None
    where, said = str(error.filename or ""), error.strerror or str(error)
    if is_full(error):
        what = said if where else f"a file could not be written: {said}"
        return Problem(what, where=where, fix="Make room, or choose another place.")
    if error.errno in _FORBIDDEN:
        fix = "Choose another place, or ask who owns it for the permission."
        return Problem(f"cannot be read or written: {said}", where=where, fix=fix)
    return Problem(said, where=where, fix="Choose another place.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that are behind it, the innermost first."""
    if error is None:
        return
    for name in ("controller_failure", "health_check_failure", "_base_exc", "cause", "__cause__"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and inner is not error:
            yield from _causes(inner)
    for inner in getattr(error, "worker_failures", {}).values():
        yield from _causes(inner)
    yield error


def last_words(error: BaseException) -> str:
    """Return the last line of an error's text: of a traceback, what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:_LONGEST]
