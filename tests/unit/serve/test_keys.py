"""The file of API keys: what it holds, what is wrong with it, and that a change counts."""

import os
from pathlib import Path

import pytest

from changenet.errors import SpecError
from serve.keys import HEADER, RECHECK_SECONDS, KeyRing, Scope, add_key, digest_of, read_keys


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "keys.txt")


def test_the_file_never_holds_a_key(file):
    key = add_key(file, "line-3")
    assert len(key) > 40
    text = Path(file).read_text()
    assert key not in text and digest_of(key) in text
    (entry,) = read_keys(file)
    assert entry.name == "line-3" and entry.scopes == {Scope.INSPECT}


def test_admin_includes_the_rest(file):
    add_key(file, "ops", admin=True)
    (entry,) = read_keys(file)
    assert entry.allows(Scope.ADMIN) and entry.allows(Scope.INSPECT)


def test_keys_are_added_beside_what_is_there(file):
    first = add_key(file, "a")
    Path(file).write_text(Path(file).read_text() + "# bought in May\n")
    second = add_key(file, "b")
    assert [key.name for key in read_keys(file)] == ["a", "b"] and "bought in May" in Path(file).read_text()
    assert first != second
    with pytest.raises(SpecError, match="already"):
        add_key(file, "a")
    assert len(read_keys(file)) == 2


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä", "a/b"])
def test_names_are_plain(file, name):
    with pytest.raises(SpecError, match="name"):
        add_key(file, name)
    assert not Path(file).exists()


@pytest.mark.parametrize("content", ["", "name inspect sha256:00", "changenet-keys 2\n", "\xff\xfe"])
def test_what_is_no_file_of_keys_is_refused(file, content):
    Path(file).write_bytes(content.encode("latin-1"))
    with pytest.raises(SpecError):
        read_keys(file)
    with pytest.raises(SpecError):
        add_key(file, "line")


def test_all_wrong_lines_are_told_and_none_is_shown(file):
    good = digest_of("k")
    lines = [
        HEADER,
        f"a inspect {good}",
        "cn_a-key-by-mistake",
        f"b root {good}",
        "c inspect sha256:12",
        f"a admin {good}",
    ]
    Path(file).write_text("\n".join(lines))
    with pytest.raises(SpecError) as caught:
        read_keys(file)
    assert [problem.where.rpartition(" ")[2] for problem in caught.value.problems] == ["3", "4", "5", "6"]
    assert "mistake" not in str(caught.value) and good not in str(caught.value)


def test_a_missing_file_and_a_uri_are_refused(file):
    for path in (file, "s3://bucket/keys"):
        with pytest.raises(SpecError):
            KeyRing(path)


def test_a_changed_file_counts_after_a_moment(file):
    clock = Clock()
    old = add_key(file, "old")
    ring = KeyRing(file, clock=clock)
    assert ring.find(old).name == "old" and ring.find("cn_wrong") is None and ring.find(old + "x") is None
    new = add_key(file, "new")
    Path(file).write_text("\n".join(line for line in Path(file).read_text().splitlines() if not line.startswith("old")))
    assert not ring.stale
    clock.now += RECHECK_SECONDS
    assert ring.stale
    ring.refresh()
    assert not ring.stale
    assert ring.find(old) is None and ring.find(new).name == "new"


@pytest.mark.parametrize("damage", ["", "changenet-keys 1\nbroken", None])
def test_a_broken_file_leaves_the_last_good_keys(file, caplog, damage):
    clock = Clock()
    key = add_key(file, "a")
    ring = KeyRing(file, clock=clock)
    before = Path(file).read_text()
    if damage is None:
        Path(file).unlink()
    else:
        Path(file).write_text(damage)
    ring.refresh()
    assert ring.find(key) is not None
    assert "stay in force" in caplog.text
    Path(file).write_text(before.replace("\na ", "\nrenamed "))
    os.utime(file)
    ring.refresh()
    assert ring.find(key).name == "renamed"


def test_a_file_without_keys_lets_nobody_in(file):
    Path(file).write_text(f"{HEADER}\n")
    assert KeyRing(file).find("") is None
