"""The TensorRT engine: runs what `changenet gen_trt_engine` built, on the kind of GPU that it was built for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from changenet import encryption, storage
from changenet.bundle import Bundle, is_bundle, read_bundle
from changenet.description import ModelDescription
from changenet.engines.interface import Array, Arrays, Engine
from changenet.errors import CheckpointError, DataError, EngineError
from changenet.signing import KeySource
from changenet.storage import sha256
from changenet.tensorrt.package import import_tensorrt
from changenet.tensorrt.tag import EngineTag

if TYPE_CHECKING:
    from torch import Tensor

    from changenet.tensorrt.run import Plan

FORMAT = "changenet-tensorrt"
FORMAT_VERSION = 1
NOTE_SUFFIX = ".json"
PAIR = "pair.engine"
RUNTIME = "tensorrt"


@dataclass(frozen=True)
class TensorRtFiles:
    """Engines that were built together, before anything of them is loaded.

    Args:
        where: The bundle or the file.
        tag: Where they run.
        description: What the model says about itself.
        read: Returns the content of the engine file of that name.
        pair_only: There is the pair graph alone, not the split road.
    """

    where: str
    tag: EngineTag
    description: ModelDescription
    read: Callable[[str], bytes] = field(repr=False)
    pair_only: bool = False


def is_engine_file(path: str) -> bool:
    """Say whether `path` (or URI) is an engine that `write_engine_file` wrote."""
    return storage.exists(f"{path}{NOTE_SUFFIX}") and not is_bundle(path)


def write_engine_file(
    path: str, plan: bytes, tag: EngineTag, description: ModelDescription | None, *, encryption_key: str | None = None
) -> int:
    """Write the engine of the pair graph as TensorRT knows it, and beside it, in `PATH.json`, what it is.

    Args:
        path: Path or URI.
        plan: The engine, which DeepStream, Triton and trtexec read as it is.
        tag: Where it runs.
        description: Of the network; None where the ONNX file did not come from `changenet export`.
        encryption_key: Encrypts the engine.

    Returns:
        Its size in bytes.
    """
    stored = encryption.seal(plan, encryption_key) if encryption_key else plan
    note = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sha256": sha256(stored),
        "tag": tag.to_dict(),
        "description": description.to_dict() if description else None,
    }
    storage.write_bytes(path, stored)
    storage.write_text(f"{path}{NOTE_SUFFIX}", json.dumps(note, indent=2, ensure_ascii=False) + "\n")
    return len(stored)


def open_files(
    path: str, *, encryption_key: str | None = None, trusted_keys: Sequence[KeySource] = ()
) -> tuple[TensorRtFiles, Bundle | None]:
    """Read and verify what `TensorRtEngine` runs; needs neither TensorRT nor a GPU.

    Args:
        path: A bundle folder or an engine file (path or URI).
        encryption_key: Opens encrypted engines.
        trusted_keys: As `changenet.engines.load_engine`; only a bundle can carry a signature.

    Returns:
        The files, and the bundle, where it is one.

    Raises:
        CheckpointError: Missing, damaged, locked, of a newer format, or not signed with a trusted key.
        EngineError: There is no TensorRT engine in it.
    """
    if is_bundle(path):
        bundle = read_bundle(path, encryption_key=encryption_key, trusted_keys=trusted_keys)
        entry = next((each for each in bundle.manifest.engines if each.runtime == RUNTIME), None)
        if entry is None:
            what = "there is no TensorRT engine in this bundle"
            raise EngineError(what, where=path, fix=f"Build one: changenet gen_trt_engine with onnx_file={path}.")
        tag = _tag(entry.tag, path)
        return TensorRtFiles(path, tag, bundle.manifest.description, bundle.read), bundle
    if trusted_keys:
        what = "is no bundle, and a signature is demanded, which only a bundle can carry"
        raise CheckpointError(what, where=path, fix="Give the bundle that the engine was built from.")
    if not storage.exists(path):
        raise CheckpointError("there is no such file", where=path, fix="Run changenet gen_trt_engine first.")
    if not is_engine_file(path):
        what = "the engine tensorrt runs what changenet gen_trt_engine built, and this is something else"
        raise EngineError(what, where=path, fix="Export to a bundle, and give it to changenet gen_trt_engine.")
    return _open_engine_file(path, encryption_key), None


def _open_engine_file(path: str, encryption_key: str | None) -> TensorRtFiles:
    where, again = f"{path}{NOTE_SUFFIX}", "Build the engine again, or copy both files again."
    try:
        note = json.loads(storage.read_text(where))
        if note.get("format") != FORMAT:
            raise CheckpointError("does not describe a TensorRT engine", where=where, fix=again)
        if note["format_version"] > FORMAT_VERSION:
            what = f"written in format version {note['format_version']}; this program reads up to {FORMAT_VERSION}"
            raise CheckpointError(what, where=where, fix="Upgrade changenet.")
        tag, described, digest = _tag(note["tag"], where), note["description"], note["sha256"]
        description = ModelDescription.from_dict(described) if described else None
    except (DataError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"damaged ({type(error).__name__}: {error})", where=where, fix=again) from error
    if description is None:
        what = "was built from an ONNX file alone, which has neither preprocessing nor threshold"
        fix = "Build it from a bundle, or from the model.onnx that changenet export wrote beside one."
        raise EngineError(what, where=path, fix=fix)

    def read(_name: str) -> bytes:
        try:
            stored = storage.read_bytes(path)
        except DataError as error:
            raise CheckpointError("there is no such file", where=path, fix=again) from error
        if sha256(stored) != digest:
            raise CheckpointError("changed since it was written (SHA-256 differs)", where=path, fix=again)
        if not encryption.is_sealed(stored):
            return stored
        return encryption.unseal(stored, encryption_key, where=path)

    read(PAIR)  # what is wrong with the file is said now
    return TensorRtFiles(path, tag, description, read, pair_only=True)


def _tag(values: dict[str, Any], where: str) -> EngineTag:
    try:
        return EngineTag.from_dict(values)
    except (TypeError, KeyError) as error:
        what = f"the TensorRT engine does not say where it runs ({type(error).__name__}: {error})"
        raise CheckpointError(what, where=where, fix="Build the engine again.") from error


class TensorRtEngine(Engine):
    """The engines `encoder`, `golden` (learnable only) and `comparator`; `pair` is loaded when it is first used.

    Args:
        files: See `open_files`.
        device: The GPU: `cuda`, `cuda:1` …; `cpu` means the first one, as nothing else runs TensorRT.

    Attributes:
        memory_bytes: Memory on the GPU that the loaded engines take, for their weights and one call each.

    Raises:
        EngineError: TensorRT or the GPU is missing, or the engines were built for others.
        CheckpointError: TensorRT cannot load an engine.
    """

    def __init__(self, files: TensorRtFiles, *, device: str = "cuda") -> None:
        import torch

        from changenet.tensorrt.run import local_gpu

        device = "cuda" if device == "cpu" else device
        self._files = files
        self._package = import_tensorrt(files.tag.package)
        files.tag.check(version=self._package.version, gpu=local_gpu(device), where=files.where)
        network = files.description.network
        super().__init__(
            name=RUNTIME,
            device=device,
            precision=files.tag.precision,
            multiclass=bool(network.get("multiclass", False)),
        )
        self._device = torch.device(device)
        self._stream: Any = torch.cuda.Stream(self._device) if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
        self._plans: dict[str, Plan] = {}
        self.memory_bytes = 0
        mean, std = (torch.tensor(network[key], dtype=torch.float64) for key in ("mean", "std"))
        self._scale, self._shift = (
            each.float().reshape(3, 1, 1).to(self._device) for each in (1 / (255 * std), -mean / std)
        )
        if files.pair_only:
            self._plan("pair")
            return
        for name in ("encoder", *(("golden",) if self._learnable else ()), "comparator"):
            self._plan(name)

    @cached_property
    def _learnable(self) -> bool:
        return self._files.description.difference_module == "learnable"

    def warm_up(self, shape: tuple[int, int, int], *, batch: int = 1, num_golden: int = 1) -> None:
        """Score a batch of black pairs, so that the first real one is not the one that waits.

        Args:
            shape: (3, H, W) of a picture.
            batch: Pairs.
            num_golden: Goldens a test is compared with.
        """
        goldens = (num_golden,) if num_golden > 1 else ()
        self.output(np.zeros((batch, *shape), np.uint8), np.zeros((batch, *goldens, *shape), np.uint8))

    def encode(self, pictures: NDArray[np.uint8]) -> Arrays:
        """See `Engine`."""
        with self._on_stream():
            return _arrays(self._run("encoder", self._tensors([pictures])))

    def prepare_golden(self, features: Sequence[Array]) -> Arrays:
        """See `Engine`."""
        if not self._learnable:
            return tuple(features)
        with self._on_stream():
            return _arrays(self._run("golden", self._tensors(features)))

    def compare(self, test_features: Sequence[Array], golden_halves: Sequence[Array]) -> NDArray[np.float32]:
        """See `Engine`."""
        with self._on_stream():
            return _arrays(self._run("comparator", self._tensors([*test_features, *golden_halves])))[0]

    def pair(self, test: NDArray[np.float32], golden: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine`."""
        with self._on_stream():
            return _arrays(self._run("pair", self._tensors([test, golden])))[0]

    def output(self, test: NDArray[np.uint8], golden: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`; nothing leaves the GPU on the way."""
        import torch

        with self._on_stream():
            pictures = self._tensors([test, golden])
            if self._files.pair_only:
                return _arrays(self._run("pair", [each * self._scale + self._shift for each in pictures]))[0]
            stacked = torch.cat([pictures[0], pictures[1].reshape(-1, *golden.shape[-3:])])
            features = self._run("encoder", [stacked])
            halves = [level[len(test) :] for level in features]
            if self._learnable:
                halves = list(self._run("golden", halves))
            if golden.ndim == 5:
                halves = [half.reshape(len(test), -1, *half.shape[1:]) for half in halves]
            return _arrays(self._run("comparator", [*(level[: len(test)] for level in features), *halves]))[0]

    def _run(self, name: str, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._plan(name)(inputs)

    def _plan(self, name: str) -> Plan:
        from changenet.tensorrt import run

        if self._files.pair_only and name != "pair":
            what = "an engine file holds the pair graph only, which keeps no work of goldens"
            raise EngineError(what, where=self._files.where, fix="Give the bundle that it was built from.")
        if name not in self._plans:
            content = self._files.read(f"{name}.engine")
            where = f"{self._files.where}: {name}.engine"
            self._plans[name] = run.open_plan(content, package=self._package, device=self._device, where=where)
            self.memory_bytes += self._plans[name].memory_bytes
        return self._plans[name]

    def _tensors(self, arrays: Sequence[Array]) -> list[Tensor]:
        import torch

        return [torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in arrays]

    def _on_stream(self) -> contextlib.AbstractContextManager[object]:
        import torch

        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _arrays(tensors: Sequence[Tensor]) -> Arrays:
    return tuple(tensor.float().cpu().numpy() for tensor in tensors)
