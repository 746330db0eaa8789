"""What a trained network costs to run: time and memory, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from changenet.engines.interface import Engine
from changenet.errors import EngineError
from changenet.evaluation.candidate import Candidate

BATCHES = (1, 8)
SECONDS = 1.0  # of measuring a batch, about
_RUNS = 5  # at least


@dataclass(frozen=True)
class Cost:
    """What a process of its own needed; None where it gave no answer.

    Args:
        latency_ms: Median milliseconds of scoring a batch, by its pairs, goldens encoded each time.
        pairs_per_second: At the largest batch.
        memory_mb: Most memory that the process held, in MB, Python and the runtimes included; None where the operating
            system does not say, and on a GPU, whose memory counts there.
    """

    latency_ms: dict[str, float | None]
    pairs_per_second: float | None
    memory_mb: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


UNKNOWN = Cost({str(batch): None for batch in BATCHES}, None, None)


def measure(candidate: Candidate) -> Cost:
    """Load a network in a new process, which holds nothing else, and score noise with it on all CPUs.

    Raises:
        EngineError: The process ended without an answer, which happens when there is not enough memory.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        # Not as an argument, which the process would keep; as bytes, because tensors would go through shared memory,
        # of which containers have little.
        ours.send_bytes(pickle.dumps(candidate))
        found: Cost = ours.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise EngineError("the process that measures ended early", fix="Is there enough memory?") from error
    finally:
        process.join()
    return found


def _answer(pipe: Connection) -> None:
    candidate: Candidate = pickle.loads(pipe.recv_bytes())  # noqa: S301 - of the process that started us
    engine, description, on_cpu = candidate.open(), candidate.description, candidate.device == "cpu"
    del candidate  # the engine has copied what it needs
    shape, goldens = description.layout.shape, description.num_golden
    latency = {str(batch): median_seconds(engine, batch, shape, goldens) for batch in BATCHES}
    largest = BATCHES[-1]
    pipe.send(
        Cost(
            latency_ms={batch: round(1000 * seconds, 3) for batch, seconds in latency.items()},
            pairs_per_second=round(largest / latency[str(largest)], 1),
            memory_mb=_peak() if on_cpu else None,
        )
    )


def median_seconds(engine: Engine, batch: int, shape: tuple[int, int, int], goldens: int) -> float:
    """Return the seconds of scoring a batch of noise, goldens encoded each time."""
    random = np.random.default_rng(batch)
    test = random.integers(0, 256, (batch, *shape), dtype=np.uint8)
    golden = random.integers(0, 256, (batch, *((goldens,) if goldens > 1 else ()), *shape), dtype=np.uint8)
    engine.score(test, golden)  # the first call prepares
    times: list[float] = []
    while len(times) < _RUNS or sum(times) < SECONDS:
        began = time.perf_counter()
        engine.score(test, golden)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _peak() -> float | None:
    # Not `getrusage`: it counts what the process was before it became this program.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) * 1024 / 1e6, 1)
