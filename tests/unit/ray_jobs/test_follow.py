from __future__ import annotations

from ray_jobs.follow import Board


def test_all_workers_stop_at_a_step_that_none_has_passed() -> None:
    board = Board()
    assert not board.stop(), "no worker has begun"
    assert board.reached(7) is None
    assert board.reached(6) is None
    assert board.stop()
    assert board.reached(8) == 9


def test_workers_that_start_again_stop_where_they_are() -> None:
    board = Board()
    board.reached(100)
    board.reached(60)
    assert board.stop()
    assert board.reached(61) == 62


def test_a_record_is_shown_once() -> None:
    board = Board()
    for _ in range(2):
        board.log("ray_jobs", 20, "Going on.")
    assert board.take()[-1] == [("ray_jobs", 20, "Going on.")]
    assert board.take()[-1] == []
