from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import functools
import io
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from changenet.model.inert_pickle import plain, read_inert

ROADS: list[dict[str, Any]] = [
    {},
    {"pickle_protocol": 4},
    {"pickle_protocol": 5},
    {"_use_new_zipfile_serialization": False},
    {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
]


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    """Stands for the settings that a training program keeps."""

    model: dict[str, Any] = dataclasses.field(default_factory=lambda: {"type": "fan"})
    epochs: int = 3


class KeywordOnly:
    def __new__(cls, *, size: int) -> KeywordOnly:
        made = super().__new__(cls)
        made.size = size
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"size": 1}


class Attributes(dict):  # type: ignore[type-arg]
    pass


class Items(list):  # type: ignore[type-arg]
    pass


class Method:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return getattr, (pathlib.Path, "touch")


class Runs:
    """Runs a command under plain unpickling, from the call, from the state and from a nested call."""

    def __init__(self, command: str, *, how: int) -> None:
        self.command, self.how = command, how

    def __reduce__(self) -> Any:
        if self.how == 0:
            return os.system, (self.command,)
        if self.how == 1:
            return eval, (f"__import__('os').system({self.command!r})",)
        if self.how == 2:
            return functools.partial(os.system, self.command), ()
        return Settings, (), {"model": Runs(self.command, how=0)}


def saved(content: object, **road: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(content, file, **road)
    file.seek(0)
    return file


@pytest.mark.parametrize("road", ROADS)
def test_tensors_come_back_beside_objects_of_every_kind(road: dict[str, Any]) -> None:
    layer = torch.nn.Linear(3, 4)
    tensors = {
        "weight": layer.weight,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "unsigned": torch.tensor([1, 70], dtype=torch.uint16),
        "view": torch.arange(10.0)[2:8:2],
        "turned": torch.arange(6.0).reshape(2, 3).t(),
        "empty": torch.zeros(0),
        "number": torch.tensor(7),
    }
    objects = {
        "omegaconf": OmegaConf.create({"model": {"type": "fan", "widths": [1, 2, "???"], "same": "${model.widths}"}}),
        "dataclass": Settings(),
        "namespace": argparse.Namespace(lr=0.1),
        "enum": Colour.RED,
        "path": pathlib.PurePosixPath("/data/a.csv"),
        "attributes": Attributes(lr=1),
        "items": Items([1, 2]),
        "defaults": defaultdict(list, a=[1]),
        "partial": functools.partial(print, 1),
        "method": Method(),
        "keywords": KeywordOnly(size=1),
        "array": np.arange(3),
        "scalar": np.float32(2),
    }
    back = read_inert(saved({"state_dict": OrderedDict(layer.state_dict()), **tensors, **objects}, **road))
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor.detach()), name
    assert back["state_dict"]["weight"].data_ptr() == back["weight"].data_ptr()
    read = {name: plain(back[name]) for name in objects}
    assert read["omegaconf"] == {"model": {"type": "fan", "widths": [1, 2, "???"], "same": "${model.widths}"}}
    assert read["dataclass"] == {"model": {"type": "fan"}, "epochs": 3}
    assert (read["namespace"], read["enum"], read["path"]) == ({"lr": 0.1}, 1, "/data/a.csv")
    assert (read["attributes"], read["items"], read["defaults"]) == ({"lr": 1}, [1, 2], {"a": [1]})


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("how", range(4))
def test_nothing_in_a_file_is_run(how: int, road: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    file = saved({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": Runs(f"touch {mark}", how=how)}, **road)
    assert torch.equal(read_inert(file)["state_dict"]["a"], torch.ones(2))
    assert not mark.exists()
    file.seek(0)
    torch.load(file, weights_only=False)  # the trap is real
    assert mark.exists()


def rewritten(content: io.BytesIO, change: Any) -> io.BytesIO:
    """Return a zip file of torch with its pickle changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    out.seek(0)
    return out


def test_a_file_cannot_reach_beyond_its_own_numbers() -> None:
    # size (4,) becomes (400,)
    grown = rewritten(saved(torch.ones(4)), lambda _name, raw: raw.replace(b"K\x04\x85", b"M\x90\x01\x85"))
    with pytest.raises(pickle.UnpicklingError):
        read_inert(grown)


def test_a_file_cannot_change_what_reads_the_next_one() -> None:
    # BUILD with slots on the rebuilding function, then on torch's own constant
    for target in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nfloat32\n", b"ccollections\nOrderedDict\n"):
        pickled = b"\x80\x02" + target + b"N}X\x04\x00\x00\x00_runK\x01s\x86b."
        archive = rewritten(saved(1), lambda name, raw, pickled=pickled: pickled if name.endswith("data.pkl") else raw)
        with contextlib.suppress(pickle.UnpicklingError):
            read_inert(archive)
        assert torch.equal(read_inert(saved(torch.ones(2))), torch.ones(2))


@pytest.mark.parametrize(
    "content",
    [b"", b"text", pickle.dumps({"a": 1}), b"\x80\x02(.", b"PK\x03\x04 cut", pickle.dumps(Runs("touch ran", how=0))],
)
def test_files_that_torch_did_not_write_are_one_error(content: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        read_inert(io.BytesIO(content))


def test_cut_and_compressed_and_scripted_archives_are_refused() -> None:
    whole = saved({"a": torch.ones(100)}, _use_new_zipfile_serialization=False).getvalue()
    with pytest.raises(pickle.UnpicklingError):
        read_inert(io.BytesIO(whole[:-50]))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(1, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="compressed"):
        read_inert(packed)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), script)
    script.seek(0)
    with pytest.raises(pickle.UnpicklingError, match="not of weights"):
        read_inert(script)


def test_settings_that_contain_themselves_have_an_end() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    assert "self" in plain(read_inert(saved({"a": argparse.Namespace(loop=loop)})))["a"]["loop"]


def test_what_is_mentioned_many_times_is_looked_at_once() -> None:
    node: Any = argparse.Namespace(end=1)
    for _ in range(40):  # 2^40 ways to the end
        node = argparse.Namespace(left=node, right=node)
    read = plain(read_inert(saved({"a": node})))
    assert read["a"]["left"] is read["a"]["right"]
