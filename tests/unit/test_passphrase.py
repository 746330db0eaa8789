"""Where a passphrase may come from."""

from pathlib import Path

import pytest

from changenet.errors import CheckpointError
from changenet.passphrase import from_environment, from_file


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_holds_it_on_its_only_line(tmp_path: Path, end: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(f" horse staple {end}".encode())
    assert from_file(file) == " horse staple "


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"horse\nstaple\n", "several lines"), (b"\xff\xfehorse", "not UTF-8")],
)
def test_other_files_are_refused_and_not_shown(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        from_file(file)
    assert "horse" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone: no such file"):
        from_file(tmp_path / "gone")


def test_the_environment_must_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINE_KEY", "horse staple")
    assert from_environment("LINE_KEY") == "horse staple"
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("CHANGENET_KEY", raising=False)
        else:
            monkeypatch.setenv("CHANGENET_KEY", value)
        with pytest.raises(CheckpointError, match="CHANGENET_KEY"):
            from_environment()
