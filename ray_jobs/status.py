"""`status.json`: the JSON lines that TAO's tools read, one object an event (TAO 7.3)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any, Literal

from changenet import storage

Status = Literal["STARTED", "RUNNING", "SUCCESS", "FAILURE", "SKIPPED"]


class StatusLog:
    """Appends events to one file; every line is complete when it is written.

    Args:
        path: The `status.json` of an action, a local path or a URI.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def write(
        self,
        status: Status,
        message: str,
        *,
        kpi: Mapping[str, float | None] | None = None,
        verbosity: str = "INFO",
        **facts: Any,
    ) -> None:
        """Append one event.

        Args:
            status: TAO's word for the state.
            message: One line.
            kpi: Figures by TAO's names, percentages 0-100; undefined ones are null.
            verbosity: `INFO`, `WARNING` or `ERROR`.
            facts: `epoch`, `max_epoch`, `step`, `max_step`, `time_per_epoch`, `eta` where they apply.
        """
        now = time.localtime()
        event: dict[str, Any] = {
            "date": f"{now.tm_mon}/{now.tm_mday}/{now.tm_year}",
            "time": f"{now.tm_hour}:{now.tm_min}:{now.tm_sec}",
            "status": status,
            "verbosity": verbosity,
            "message": message,
            **facts,
        }
        if kpi is not None:
            event["kpi"] = {
                name: None if value is None or not math.isfinite(value) else round(float(value), 6)
                for name, value in kpi.items()
            }
        storage.append_line(self.path, json.dumps(event))


def clock(seconds: float) -> str:
    """Return seconds as TAO writes durations.

    >>> clock(3725)
    '1:02:05'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
