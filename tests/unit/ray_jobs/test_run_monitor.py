from __future__ import annotations

import logging

import pytest

from ray_jobs.run_monitor import REMINDER, SLOW_START, RunMonitor, Waiting


def test_all_workers_stop_at_a_step_that_none_has_passed() -> None:
    monitor = RunMonitor()
    assert not monitor.stop(), "no worker has begun"
    assert monitor.reached(7) is None
    assert monitor.reached(6) is None
    assert monitor.stop()
    assert monitor.reached(8) == 9


def test_workers_that_start_again_stop_where_they_are() -> None:
    monitor = RunMonitor()
    monitor.reached(100)
    monitor.reached(60)
    assert monitor.stop()
    assert monitor.reached(61) == 62


def test_a_record_is_shown_once() -> None:
    monitor = RunMonitor()
    for _ in range(2):
        monitor.log("ray_jobs", 20, "Going on.")
    assert monitor.take()[-1] == [("ray_jobs", 20, "Going on.")]
    assert monitor.take()[-1] == []


def test_workers_that_do_not_start_are_worth_a_word_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    waiting = Waiting()

    def words(*looks: tuple[float, bool]) -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for now, working in looks:
                waiting.look(working=working, now=now)
        return len(caplog.records)

    assert words((0, False), (SLOW_START - 1, False)) == 0
    assert words((SLOW_START, False), (SLOW_START + 1, False)) == 1
    assert words((SLOW_START + REMINDER, False)) == 1
    assert words((10_000, True), (10_001, False), (10_000 + SLOW_START, False)) == 0, "they worked, and start again"
    assert words((10_001 + SLOW_START, False)) == 1
