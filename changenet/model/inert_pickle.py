"""Reads files that `torch.save` wrote without running anything in them: what is no tensor becomes an inert record.

`torch.load(weights_only=True)` refuses a whole file for one foreign object, and training programs leave many: settings,
callbacks, paths. Here Python's pickle machine runs with names that mean the few functions below, or a `Record`, and
nothing else; no module is imported for a file, and nothing that it names is ever called.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # begins torch's format before 1.6
_STORAGES = {
    f"{kind}Storage": dtype
    for kind, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool, "Untyped": torch.uint8,
    }.items()
}  # fmt: skip
_ARCHIVE = b"PK\x03\x04"  # begins a zip file
_DEEPEST = 50
# What the pickle machine and torch raise for files that are damaged or made to do harm.
_DAMAGE = (
    pickle.PickleError, zipfile.BadZipFile, struct.error, RuntimeError, ValueError, TypeError, AttributeError, LookupError,
    EOFError, ArithmeticError, ImportError, AssertionError, MemoryError, OSError,
)  # fmt: skip


class Record:
    """An object of a class that is not known here: what its pickle says, and nothing of what it does.

    Attributes:
        name: Module and name of the class or function.
        arguments: What it would have been called with.
        state: What its attributes would have been set from.
        pairs: Items of a mapping.
        items: Items of a list or set.
    """

    name = ""
    arguments: tuple[Any, ...]
    state: Any
    pairs: list[tuple[Any, Any]]
    items: list[Any]

    def __new__(cls, *arguments: Any, **_: Any) -> Record:  # noqa: D102 - the pickle machine may call it alone
        record = super().__new__(cls)
        record.arguments, record.state, record.pairs, record.items = arguments, None, [], []
        return record

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **_: Any) -> Record:  # noqa: D102 - what a foreign function would return
        return Record(*arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))

    def append(self, item: Any) -> None:
        """Keep an item, as a list or a set would."""
        self.items.append(item)

    add = append


def read_inert(content: IO[bytes]) -> Any:
    """Return what a file of `torch.save` holds (zip format or the one before torch 1.6), tensors on the CPU.

    Raises:
        pickle.UnpicklingError: The file is damaged, or holds what no file of weights holds.
    """
    try:
        start = content.tell()
        archive, zipped = content.read(len(_ARCHIVE)) == _ARCHIVE, zipfile.is_zipfile(content)
        content.seek(start)
        if archive and not zipped:
            raise pickle.UnpicklingError("is an archive that is cut short")
        return _read_zip(content) if zipped else _read_legacy(content)
    except _DAMAGE as error:
        # What else Python raises speaks of its own work, not of the file.
        message = str(error) if isinstance(error, pickle.PickleError | zipfile.BadZipFile) else "is damaged"
        raise pickle.UnpicklingError(message.strip().split("\n")[0]) from error


def plain(value: Any) -> Any:
    """Return the mappings, lists and values that a record stands for; None for what has no plain form.

    OmegaConf's containers, data classes, name spaces, enumerations and paths have one. Each object is looked at once,
    however often it is mentioned; what contains itself ends in None.
    """
    return _Plain().of(value, 0)


class _Plain:
    def __init__(self) -> None:
        self._done: dict[int, Any] = {}

    def of(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, str | int | float):
            return value
        if depth > _DEEPEST or not isinstance(value, Mapping | list | tuple | set | frozenset | Record):
            return None
        if id(value) not in self._done:
            self._done[id(value)] = None
            self._done[id(value)] = self._container(value, depth + 1)
        return self._done[id(value)]

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return self._mapping(value.items(), depth)
        return self._record(value, depth) if isinstance(value, Record) else [self.of(item, depth) for item in value]

    def _mapping(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        return {str(name): self.of(item, depth) for name, item in pairs if isinstance(name, str | int | float)}

    def _record(self, record: Record, depth: int) -> Any:
        state = record.state[0] if isinstance(record.state, tuple) and record.state else record.state
        if isinstance(state, Mapping):
            for inner in ("_content", "_val"):  # of OmegaConf's containers and of its values
                if inner in state:
                    return self.of(state[inner], depth)
            public = [(name, item) for name, item in state.items() if not str(name).startswith("_")]
            return self._mapping([*public, *record.pairs], depth)
        if record.pairs:
            return self._mapping(record.pairs, depth)
        if record.items:
            return [self.of(item, depth) for item in record.items]
        if record.name.startswith("pathlib."):
            return "/".join(str(part) for part in record.arguments).replace("//", "/")
        return self.of(record.arguments[0], depth) if len(record.arguments) == 1 else None


@dataclass(frozen=True, slots=True)
class _StorageKind:
    dtype: torch.dtype


class _Function:
    """A function that a file may call; new for each mention, so that a file can change none but its own."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, *arguments: Any) -> Any:
        return self._run(*arguments)


def _strided(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)  # checks that all of it lies inside


def _retyped(
    storage: Tensor, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    return _strided(storage.view(dtype), offset, size, stride)


def _text_bytes(text: str, _encoding: str) -> bytes:
    return text.encode("latin-1")  # how pickle's protocol 2 writes bytes


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _strided,
    ("torch._utils", "_rebuild_tensor_v2"): _strided,
    ("torch._utils", "_rebuild_tensor_v3"): _retyped,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("_codecs", "encode"): _text_bytes,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
}


class _Reader(pickle.Unpickler):
    """The pickle machine with our names.

    Args:
        file: The pickle.
        storage: Returns the numbers of a storage (flat) for (dtype, key, count, view).
    """

    def __init__(self, file: IO[bytes], storage: Callable[[torch.dtype, str, int, Any], Tensor]) -> None:
        super().__init__(file, encoding="latin-1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return one of our functions, a constant of torch, or a class of records."""
        if (module, name) in _FUNCTIONS:
            return _Function(_FUNCTIONS[module, name])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage", "torch.cuda"):
            if name in _STORAGES:
                return _StorageKind(_STORAGES[name])
            if module == "torch" and isinstance(constant := getattr(torch, name, None), torch.dtype):
                return constant
        return type("Record", (Record,), {"name": f"{module}.{name}"})

    def persistent_load(self, mention: Any) -> Tensor:
        """Return the numbers of a storage."""
        word, kind, key, _location, count, *view = mention
        if word != "storage" or not isinstance(kind, _StorageKind):
            raise pickle.UnpicklingError("holds a reference to something that is no storage")
        return self._storage(kind.dtype, str(key), int(count), view[0] if view else None)


def _read_zip(content: IO[bytes]) -> Any:
    with zipfile.ZipFile(content) as archive:
        names = set(archive.namelist())
        roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in names:
            raise pickle.UnpicklingError("is an archive, but not of weights (TorchScript, or another zip file)")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise pickle.UnpicklingError("is a compressed archive, which torch does not write")
        root, storages = roots[0], dict[str, Tensor]()
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise pickle.UnpicklingError("was written on a big-endian machine")

        def storage(dtype: torch.dtype, key: str, _count: int, _view: Any) -> Tensor:
            if key not in storages:
                numbers = archive.read(f"{root}data/{key}")
                storages[key] = _numbers(numbers, dtype, len(numbers) // dtype.itemsize)
            return storages[key].view(dtype)

        return _Reader(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load()


def _read_legacy(content: IO[bytes]) -> Any:
    size = content.seek(0, io.SEEK_END)
    content.seek(0)
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int, view: Any) -> Tensor:
        if not 0 <= count * dtype.itemsize <= size:
            raise pickle.UnpicklingError("mentions more numbers than it holds")
        whole = storages.setdefault(key, torch.zeros(count, dtype=dtype))  # filled below: the numbers come last
        return whole if view is None else whole[view[1] : view[1] + view[2]]

    def load() -> Any:
        return _Reader(content, storage).load()

    if load() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("is no file that torch.save wrote")
    _version, system = load(), load()
    if not system.get("little_endian", True):
        raise pickle.UnpicklingError("was written on a big-endian machine")
    result = load()
    for key in load():
        whole = storages[str(key)]
        (count,) = struct.unpack("<q", content.read(8))
        if count != len(whole):
            raise pickle.UnpicklingError("mentions other numbers than it holds")
        whole.copy_(_numbers(content.read(count * whole.dtype.itemsize), whole.dtype, count))
    return result


def _numbers(content: bytes, dtype: torch.dtype, count: int) -> Tensor:
    if len(content) < count * dtype.itemsize:
        raise pickle.UnpicklingError("is cut short")
    return torch.frombuffer(bytearray(content), dtype=dtype, count=count) if count else torch.zeros(0, dtype=dtype)
