from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.errors import CheckpointError
from changenet.model.network import ChangeNet
from changenet.training import checkpoint as module
from changenet.training.checkpoint import Checkpoint, build_network, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def saved() -> Checkpoint:
    torch.manual_seed(1)
    network = ChangeNet(backbone="timm/test_efficientnet", image_size=(32, 32), embed_dim=8)
    description = ModelDescription(
        network=network.arguments,
        layout=PictureLayout(width=32, height=32),
        threshold=Threshold(0.25, "recall", 1.0, (0.9, 1.0)),
        image_ext=".png",
    )
    return Checkpoint(description, network.state_dict(), {"progress": {"epoch": 3}})


def test_everything_comes_back(saved: Checkpoint, tmp_path: Path) -> None:
    path = str(tmp_path / "a.pth")
    save_checkpoint(path, saved)
    back = load_checkpoint(path)
    assert back.description == saved.description
    assert back.training == saved.training
    picture = torch.randn(2, 3, 32, 32)
    expected = build_network(saved)(picture, picture.flip(0))
    assert torch.equal(build_network(back)(picture, picture.flip(0)), expected)


def test_encrypted_file_opens_with_its_key_alone(saved: Checkpoint, tmp_path: Path) -> None:
    path = str(tmp_path / "a.pth")
    save_checkpoint(path, saved, encryption_key="horse staple")
    assert b"state_dict" not in Path(path).read_bytes()
    assert load_checkpoint(path, encryption_key="horse staple").description == saved.description
    for key in (None, "wrong"):
        with pytest.raises(CheckpointError):
            load_checkpoint(path, encryption_key=key)


def test_a_changed_byte_of_an_encrypted_file_is_one_clear_line(saved: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(str(path), saved, encryption_key="horse staple")
    whole = path.read_bytes()
    for place in (9, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"a\.pth: .*(damaged|Upgrade)") as caught:
            load_checkpoint(str(path), encryption_key="horse staple")
        assert len(caught.value.problems) == 1
    path.write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match="or the file is damaged"):
        load_checkpoint(str(path), encryption_key="horse staple")


def test_an_exported_file_of_tao_says_what_to_give_instead(tmp_path: Path) -> None:
    (tmp_path / "a.etlt").write_bytes(bytes(4) + b"\x8f" * 100)
    with pytest.raises(CheckpointError, match=r"only TAO opens\. Give the checkpoint"):
        load_checkpoint(str(tmp_path / "a.etlt"), encryption_key="horse staple")


def test_newer_format_is_refused_politely(saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.pth")
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT_VERSION", 99)
        save_checkpoint(path, saved)
    with pytest.raises(CheckpointError, match="newer"):
        load_checkpoint(path)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(_Runs())])
def test_foreign_files_are_refused_and_run_no_code(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_bytes(content)
    with pytest.raises(CheckpointError):
        load_checkpoint("a.pth")
    assert not Path("pwned").exists()


def test_missing_file_says_where(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        load_checkpoint(str(tmp_path / "gone.pth"))


def test_weights_that_do_not_fit_are_refused(saved: Checkpoint, tmp_path: Path) -> None:
    state = dict(saved.state)
    state.pop(next(iter(state)))
    path = str(tmp_path / "wrong.pth")
    save_checkpoint(path, Checkpoint(saved.description, state))
    with pytest.raises(CheckpointError, match=r"wrong\.pth: its weights do not fit"):
        build_network(load_checkpoint(path))


@pytest.mark.parametrize("key", [None, "horse staple"])
def test_a_disk_that_takes_no_more_is_named_as_such(saved: Checkpoint, tmp_path: Path, key: str | None) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # bytes: less than the weights take
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(str(tmp_path / "a.pth"), saved, encryption_key=key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
