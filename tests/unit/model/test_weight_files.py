from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from changenet.encryption import write_model
from changenet.errors import CheckpointError
from changenet.model.weight_files import load_exactly, read_weights


class Settings:
    """Stands for what a training program leaves in its checkpoints."""

    def __init__(self) -> None:
        self.inner = SimpleNamespace(lr=0.1)


class Trap:
    """Would run a command if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": x}, lambda x: {"model": x, "epoch": 3}])
def test_tensors_are_found_where_programs_put_them(wrap: object, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(wrap({"stem.weight": torch.ones(2)}), path)  # type: ignore[operator]
    assert list(read_weights(str(path)).tensors) == ["stem.weight"]


class Shadowing:
    """Pickles as an ordered dictionary that calls its own `items` something else."""

    def __reduce__(self) -> tuple[object, ...]:
        return OrderedDict, (), {"items": 1}, None, iter([("a", torch.ones(1))])


def test_a_mapping_cannot_hide_its_items(tmp_path: Path) -> None:
    torch.save({"state_dict": Shadowing()}, tmp_path / "a.pth")
    assert list(read_weights(str(tmp_path / "a.pth")).tensors) == ["a"]


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({"stem.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_weights(str(tmp_path / "a.safetensors")).tensors["stem.weight"], torch.ones(2))


def test_foreign_objects_do_not_bar_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1)}, "hyper_parameters": Settings(), "tao_model": "x"}, path)
    file = read_weights(str(path))
    assert list(file.tensors) == ["a"]
    assert file.tao_model == "x"
    assert set(file.beside) == {"hyper_parameters", "tao_model"}


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.ones(1)}, "extra": Trap(mark)}, path)
    assert list(read_weights(str(path)).tensors) == ["a"]
    assert not mark.exists()


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.ones(1000)}, whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "a.onnx").write_bytes(b"")
    (tmp_path / "bad.safetensors").write_bytes(b"12345678901234567890")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps([1, 2]))
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    torch.save({"state_dict_encrypted": True, "state_dict": b"x"}, tmp_path / "sealed.pth")
    save_file({"a": torch.ones(100)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:40])
    (tmp_path / "of_tao.bin").write_bytes(bytes(4) + b"\x8f" * 100)
    (tmp_path / "named.ETLT").write_bytes(b"\x07\x00\x00\x00input_1" + b"\x8f" * 100)
    (tmp_path / "junk.pth").write_bytes(b"\x80\x02e" + b"\x00" * 40)
    trace = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(trace, tmp_path / "script.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save({"model": nn.Linear(2, 2), "epoch": 3}, tmp_path / "inside.pth")
    module = r"holds a pickled module \(Linear\), not named tensors. Save its state_dict\(\)"
    reasons = {
        "cut.pth": "is an archive that is cut short. Is it whole?",
        "text.pth": "is neither a file of torch.save nor of safetensors",
        "empty.pth": "is empty",
        "a.onnx": "is empty",
        "bad.safetensors": "is neither",
        "cut.safetensors": "Is it whole?",
        "junk.pth": "cannot be read as weights",
        "plain.pt": "is no file that torch.save wrote",
        "none.pth": "holds no tensors",
        "sealed.pth": "is encrypted by TAO, with a method that only TAO has: encryption_key does not open it",
        "of_tao.bin": "looks like an .etlt file, .* Give the checkpoint that it was exported from",
        "named.ETLT": "looks like an .etlt file",
        "no.pt": "no such file",
        "script.pt": "is an archive, but not of weights",
        "module.pth": module,
        "inside.pth": module,
    }
    for name, reason in reasons.items():
        with pytest.raises(CheckpointError, match=f"{name}: .*{reason}") as caught:
            read_weights(str(tmp_path / name))
        assert "weights_only" not in str(caught.value)


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    torch.save({"a": torch.ones(1)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    # 640 bytes of header begin the file with what also begins a pickle.
    padding = {"note": "x" * 556}
    save_file({"a": torch.ones(1)}, tmp_path / "renamed.pth", metadata=padding)
    assert (tmp_path / "renamed.pth").read_bytes().startswith(b"\x80\x02")
    for name in ("pytorch_model.bin", "old", "renamed.pth"):
        assert list(read_weights(str(tmp_path / name)).tensors) == ["a"]


def test_a_folder_names_the_files_inside(tmp_path: Path) -> None:
    for name in ("README.md", "config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"is a folder, not a file. Name the file inside: model.safetensors\.$"):
        read_weights(str(tmp_path))


def test_an_encrypted_file_opens_with_its_key(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pth")
    with write_model(path, "secret") as file:
        torch.save({"state_dict": {"a": torch.ones(1)}}, file)
    assert list(read_weights(path, encryption_key="secret").tensors) == ["a"]
    with pytest.raises(CheckpointError, match="encrypted, and there is no key"):
        read_weights(path)


def test_loading_exactly_refuses_any_difference_and_changes_nothing() -> None:
    layer = nn.Linear(2, 3)
    before = layer.weight.clone()
    tensors = {"weight": torch.zeros(3, 4), "scale": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_exactly(layer, tensors, where="x.pth", fix="")
    text = str(caught.value)
    assert "missing: bias" in text
    assert "left over: scale" in text
    assert "weight (3, 4) (here (3, 2))" in text
    assert torch.equal(layer.weight, before)
