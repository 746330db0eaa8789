"""What the command line says to people, and to logs."""

import logging

from ray_jobs import console


def test_a_log_gets_a_line_now_and_then_instead_of_a_bar(monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    with console.progress() as bar:
        task = bar.add_task("Checking", total=9)
        bar.advance(task)
        assert not caplog.messages, "not at every step"
        monkeypatch.setattr(bar, "_next_line", 0.0)
        bar.advance(task)
        bar.update(task, completed=3)
        monkeypatch.setattr(bar, "_next_line", 0.0)
        bar.update(task, description="Epoch 2", completed=4)
    first, second = caplog.messages
    assert first.startswith("Checking: 2 of 9") and second.startswith("Epoch 2: 4 of 9")
