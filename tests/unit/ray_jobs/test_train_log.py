from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto import event_pb2

from ray_jobs.metrics_csv import METRICS
from ray_jobs.train_log import TrainLog


def events(folder: Path) -> list[Any]:
    """Read event files back, in the order of their names, as TensorBoard does: records of length (8 bytes), checksum (4), an event, checksum (4)."""
    found = []
    for file in sorted(folder.iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            found.append(event_pb2.Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return found


def run(folder: Path, first: int, last: int, value: float) -> None:
    log = TrainLog(str(folder), first_epoch=first, num_epochs=last, tensorboard=False, every=1)
    for epoch in range(first, last):
        log.epoch({**dict.fromkeys(METRICS, value), "epoch": epoch, "step": epoch, "seconds": 1.0}, validated=True)
    log.finished()


def test_an_epoch_that_is_done_again_has_one_point(tmp_path: Path) -> None:
    run(tmp_path, 0, 3, value=1.0)
    (first,) = (tmp_path / "tensorboard").iterdir()
    first.rename(first.with_name("events.out.tfevents.1000000000.earlier"))  # its name is the second it was made in
    run(tmp_path, 1, 3, value=2.0)
    points: dict[int, float] = {}
    for event in events(tmp_path / "tensorboard"):
        if event.HasField("session_log"):  # TensorBoard drops what an earlier run wrote from this step on
            points = {step: value for step, value in points.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == "train_loss":
                assert event.step not in points
                points[event.step] = value.simple_value
    assert points == {0: 1.0, 1: 2.0, 2: 2.0}
