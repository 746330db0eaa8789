"""What every action that has a spec does around its work: its folder, `experiment.yaml`, `status.json`, the run lock."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType

import yaml

from changenet import storage
from changenet.errors import ChangeNetError, CheckpointError, DataError, EngineError, Problem, SpecError
from changenet.run_lock import RunLock
from changenet.spec import Experiment, load_spec
from ray_jobs.failures import cluster_failure, file_failure
from ray_jobs.status import StatusLog

logger = logging.getLogger(__name__)

# TAO's words for the kinds of failure in status.json.
_FAILURES = (
    (SpecError, "Configuration error"),
    (DataError, "Parameter validation error"),
    (CheckpointError, "File system error"),
    (EngineError, "Feature not implemented"),
    (OSError, "File system error"),
)


class Action(contextlib.AbstractContextManager["Action"]):
    """One run of one action.

    The spec is read by `Action.load`; entering takes the folder's lock and writes `experiment.yaml`; the last line of
    `status.json` says how it ended.

    Args:
        name: The action, which is also the name of its folder.
        experiment: The spec.
        fresh: What an earlier run left in the folder is set aside, into a folder beside it.
    """

    def __init__(self, name: str, experiment: Experiment, *, fresh: bool = False) -> None:
        self.name = name
        self._fresh = fresh
        self.experiment = experiment
        self.folder = experiment.action_dir(name)
        self.status = StatusLog(storage.join(self.folder, "status.json"))
        self._lock = RunLock(self.folder)

    @classmethod
    def load(cls, name: str, spec: str, overrides: Sequence[str] = (), *, fresh: bool = False) -> Action:
        """Read the spec, log its warnings, and return the action.

        Raises:
            SpecError: Everything that is wrong with the spec.
        """
        loaded = load_spec(spec, overrides)
        for warning in loaded.warnings:
            logger.warning("%s", warning)
        return cls(name, loaded.experiment, fresh=fresh)

    def path(self, *names: str) -> str:
        """Return a path inside the action's folder."""
        return storage.join(self.folder, *names)

    def __enter__(self) -> Action:
        if self._fresh:
            self._check_fresh()
        self._lock.__enter__()
        if self._fresh and (aside := storage.set_aside(self.folder)):
            logger.info("What was in %s is in %s now.", self.folder, aside)
        if _in_a_copy(self.folder):
            logger.warning(
                "%s lies in Ray's temporary copy of the working directory and goes with it: give results_dir an "
                "absolute path, or a URI.",
                self.folder,
            )
        self._previous = _on_terminate(_interrupt)
        storage.write_text(self.path("experiment.yaml"), yaml.safe_dump(self.experiment.public(), sort_keys=False))
        self.status.write("STARTED", f"Starting Visual ChangeNet {self.name}.")
        return self

    def _check_fresh(self) -> None:
        """Make sure that the run needs nothing of what is set aside."""
        keys = ("train.pretrained_model_path", "train.resume_training_checkpoint_path")
        named = {key: getattr(self.experiment.train, key.partition(".")[2]) for key in keys}
        inside = [key for key, path in named.items() if path and _is_inside(path, self.folder)]
        if inside:
            what, fix = f"lies in {self.folder}, which --fresh sets aside", "Copy the file, or use another results_dir."
            raise SpecError([Problem(what, where=key, fix=fix) for key in inside])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.status.write("SUCCESS", f"{self.name.replace('_', ' ').capitalize()} finished successfully.")
            elif isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):  # Ray turns SIGTERM into an exit
                self.status.write("FAILURE", f"{self.name} was interrupted.", verbosity="WARNING")
            else:
                self.status.write("FAILURE", f"{_failure(error)}: {_first_line(error)}", verbosity="ERROR")
        finally:
            _on_terminate(self._previous)
            self._lock.__exit__(kind, error, traceback)


def _failure(error: BaseException) -> str:
    return next((text for kind, text in _FAILURES if isinstance(error, kind)), "Error")


def _first_line(error: BaseException) -> str:
    if isinstance(error, ChangeNetError):
        return str(error.problems[0])
    if failure := file_failure(error) or cluster_failure(error):
        return str(failure)
    return (str(error) or type(error).__name__).splitlines()[0]


def _is_inside(path: str, folder: str) -> bool:
    return f"{storage.absolute(path)}/".startswith(f"{storage.absolute(folder).rstrip('/')}/")


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """End as on Ctrl-C, also where the process is deaf to that because a script started it in the background."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)  # perhaps Ray Tune's


def _on_terminate(handler: signal._HANDLER) -> signal._HANDLER:
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:  # only the main thread may set handlers; elsewhere the process's own stay
        return signal.SIG_DFL


def _in_a_copy(folder: str) -> bool:
    """Say whether a folder is relative to what `ray job submit --working-dir` has uploaded."""
    return not storage.is_uri(folder) and not Path(folder).is_absolute() and "working_dir_files" in Path.cwd().parts
