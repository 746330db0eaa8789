"""Builds TensorRT engines from ONNX graphs: one profile of batches, one number format a node, one tag for all."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from changenet import storage
from changenet.errors import CheckpointError, EngineError
from changenet.storage import sha256
from changenet.tensorrt import weights
from changenet.tensorrt.package import TensorRt, import_tensorrt
from changenet.tensorrt.precision import agreed_format, with_precision
from changenet.tensorrt.rules import Rule, check_rules
from changenet.tensorrt.tag import EngineTag, Gpu

logger = logging.getLogger(__name__)

Batches = tuple[int, int, int]
ONNX = ".onnx"
_OTHERWISE = "Try another gen_trt_engine.tensorrt.data_type or export.opset_version."


@dataclass(frozen=True)
class BuildSettings:
    """How engines are built.

    Args:
        precision: `fp32`, `fp16`, `bf16`, `int8` or `fp8`; the last two only for graphs that are quantized to them. A
            quantized graph keeps its own format with `fp32`, too.
        batch: Smallest, usual and largest batch of pairs, where a graph takes any.
        workspace_mb: Memory that TensorRT may use on the way, in MiB.
        rules: Formats of single nodes.
        capability: Compute capability of the GPU they are for, such as `8.9`; None = the GPU that is here.
        device: The GPU to build on.
    """

    precision: str = "fp32"
    batch: Batches = (1, 1, 8)
    workspace_mb: int = 1024
    rules: tuple[Rule, ...] = ()
    capability: str | None = None
    device: str = "cuda"


@dataclass(frozen=True)
class Built:
    """Engines that belong together.

    Args:
        plans: Name of the engine file to its content: `NAME.engine` from `NAME.onnx`.
        tag: Of all of them.
        timing_cache: What TensorRT learnt about the speed of layers; empty where it keeps nothing.
    """

    plans: dict[str, bytes] = field(repr=False)
    tag: EngineTag
    timing_cache: bytes = field(default=b"", repr=False)


def engine_name(graph_name: str) -> str:
    """Return the name of the engine of a graph.

    >>> engine_name("pair.onnx")
    'pair.engine'
    """
    return f"{graph_name.removesuffix('.onnx')}.engine"


def build_plans(
    graphs: Mapping[str, bytes],
    settings: BuildSettings,
    *,
    goldens: int = 1,
    timing_cache: bytes = b"",
    folder: str = "",
) -> Built:
    """Build the engines of graphs.

    Args:
        graphs: File name, as in a bundle, to ONNX; other names than `*.onnx` are files of weights beside the graphs.
        settings: See there.
        goldens: That a test is compared with: `encoder` and `golden` take as many pictures a pair.
        timing_cache: Of an earlier build; one of another version or GPU is not used.
        folder: The bundle that the graphs come from, or the one ONNX file, for messages.

    Raises:
        CheckpointError: A graph is none.
        EngineError: TensorRT or the GPU is missing, the precision is not that of the graphs, a rule names no layer, or
            TensorRT cannot build a graph.
    """
    # Local: the GPU is looked for with torch, which reading a tag does not need.
    from changenet.tensorrt.run import local_gpu

    package = import_tensorrt(without_gpu=settings.capability is not None)
    gpu = local_gpu(settings.device) if settings.capability is None else Gpu("", settings.capability)
    files = {name: content for name, content in graphs.items() if not name.endswith(ONNX)}
    models = {name: read_graph(graphs[name], where=_place(folder, name)) for name in graphs if name not in files}
    precision = agreed_format(settings.precision, models, files, folder)
    check_rules(settings.rules, models.values())
    floats = "fp32" if precision in ("int8", "fp8") else precision
    builder = _Builder(package, settings, gpu, timing_cache, files, folder)
    many = goldens + 1
    batches = {
        "encoder.onnx": _times(settings.batch, many, smallest=1),
        "golden.onnx": _times(settings.batch, goldens, smallest=1),
    }
    plans = {
        engine_name(name): builder.build(
            name, with_precision(model, floats, settings.rules, files=files), batches.get(name, settings.batch)
        )
        for name, model in models.items()
    }
    tag = EngineTag(
        package=package.name,
        version=package.version,
        capability=gpu.capability,
        gpu=gpu.name or None,
        precision=precision,
        batch=settings.batch,
        sources={engine_name(name): sha256(graphs[name]) for name in models},
    )
    return Built(plans, tag, builder.timing_cache)


def read_graph(content: bytes, *, where: str) -> onnx.ModelProto:
    """Return a graph without the weights that lie beside it (raises CheckpointError where it is none)."""
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        model = onnx.ModelProto()
    if not model.graph.node:
        raise CheckpointError("is not an ONNX graph", where=where, fix="Name what changenet export wrote.")
    return model


def _times(batch: Batches, factor: int, *, smallest: int) -> Batches:
    """Return the batches of a graph that sees several pictures a pair, and single ones."""
    return smallest, batch[1] * factor, batch[2] * factor


def _place(folder: str, name: str) -> str:
    if not folder:
        return name
    return folder if folder.endswith(ONNX) else storage.join(folder, name)


class _Builder:
    def __init__(
        self,
        package: TensorRt,
        settings: BuildSettings,
        gpu: Gpu,
        timing_cache: bytes,
        files: Mapping[str, bytes],
        folder: str,
    ) -> None:
        self._files, self._folder = files, folder
        self._package, self._trt, self._settings, self._gpu = package, package.module, settings, gpu
        self.timing_cache = timing_cache
        package.messages.clear()
        with _on_device(settings):
            self._builder: Any = self._trt.Builder(package.logger)
        if self._builder is None:
            raise EngineError(f"TensorRT cannot start: {package.failure()}", fix="Check the GPU's driver.")

    def build(self, name: str, model: onnx.ModelProto, batch: Batches) -> bytes:
        """Return the engine of a graph (raises EngineError)."""
        logger.info("Building %s for compute capability %s.", engine_name(name), self._gpu.capability)
        with _on_device(self._settings):
            network, *needed = self._parsed(name, model)
            config, cache = self._config()
            profile = self._builder.create_optimization_profile()
            inputs = [network.get_input(number) for number in range(network.num_inputs)]
            dynamic = [each for each in inputs if -1 in tuple(each.shape)]
            for each in dynamic:
                sides = tuple(each.shape)[1:]
                profile.set_shape(each.name, *[(size, *sides) for size in batch])
            if dynamic:
                config.add_optimization_profile(profile)
            plan = self._builder.build_serialized_network(network, config)
            del needed  # the parser owns weights that the network uses, and uses others
        if plan is None:
            what = f"TensorRT cannot build it: {self._package.failure()}"
            raise EngineError(what, where=_place(self._folder, name), fix=_OTHERWISE)
        if cache is not None:
            self.timing_cache = bytes(cache.serialize())
        self._package.messages.clear()
        return bytes(plan)

    def _parsed(self, name: str, model: onnx.ModelProto) -> tuple[Any, Any, Any]:
        """Return the network, and what must be kept until it is built."""
        flags = self._trt.NetworkDefinitionCreationFlag
        typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
        network = self._builder.create_network(typed)
        parser = self._trt.OnnxParser(network, self._package.logger)
        read, held = weights.parse(parser, model, self._files)
        if not read:
            found = parser.get_error(0).desc() if parser.num_errors else self._package.failure()
            self._package.messages.clear()
            reason = " ".join(found.partition("[checkMacros")[0].split())
            what = f"TensorRT cannot read it: {reason[:300]}"
            raise EngineError(what, where=_place(self._folder, name), fix=_OTHERWISE)
        return network, parser, held

    def _config(self) -> tuple[Any, Any]:
        """Return the configuration of a build, and the timing cache that it fills (None where there is no such thing)."""
        config = self._builder.create_builder_config()
        config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, self._settings.workspace_mb << 20)
        # 19-bit floats would not give the scores of other engines; whoever wants speed asks for 16.
        config.clear_flag(self._trt.BuilderFlag.TF32)
        if self._settings.capability is not None:
            self._aim(config, self._settings.capability)
        for content in (self.timing_cache, b""):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, False):
                return config, cache
            if content:
                logger.warning("The timing cache is of another TensorRT or GPU: it is made anew.")
        return config, None

    def _aim(self, config: Any, capability: str) -> None:
        """Build for a GPU that is elsewhere."""
        name = f"SM{capability.replace('.', '')}"
        known = self._trt.ComputeCapability.__members__
        if name not in known:
            possible = ", ".join(f"{each[2:-1]}.{each[-1]}" for each in known if each.startswith("SM"))
            what = f"{self._package.name} {self._package.version} builds nothing for compute capability {capability}"
            raise EngineError(
                what, where="gen_trt_engine.tensorrt.compute_capability", fix=f"It builds for {possible}."
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(known[name], 0)


@contextlib.contextmanager
def _on_device(settings: BuildSettings) -> Iterator[None]:
    if settings.capability is not None:
        yield
        return
    import torch

    with torch.cuda.device(settings.device):
        yield
