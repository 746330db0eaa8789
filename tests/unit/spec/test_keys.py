"""The option surface: a change of `keys.txt` is a change of a public contract."""

from __future__ import annotations

from pathlib import Path

from changenet.spec.keys import all_keys


def test_the_option_surface_is_the_recorded_one() -> None:
    recorded = Path(__file__).with_name("keys.txt").read_text(encoding="utf-8").split()
    assert sorted(all_keys()) == recorded


def test_every_key_says_what_it_means_and_allows() -> None:
    for key in all_keys().values():
        assert key.field.description, key.path
        assert key.allowed, key.path
