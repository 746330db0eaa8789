"""`changenet gen_trt_engine`: TensorRT engines of an export, for this GPU or one that is elsewhere. Needs no Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from changenet import storage
from changenet.bundle import is_bundle
from changenet.errors import SpecError
from changenet.export.tensorrt import Generated, find_source, generate
from changenet.factory.quantization import validation_pairs
from changenet.spec import Experiment
from changenet.tensorrt.build import BuildSettings
from changenet.tensorrt.rules import parse_rules
from ray_jobs.action import Action
from ray_jobs.console import err, out, result_table

logger = logging.getLogger(__name__)

KEY = "gen_trt_engine"
COMPARED = 1000  # validation pairs at most


def run(spec: str, overrides: Sequence[str] = (), *, overwrite: bool = False) -> int:
    """Write `gen_trt_engine.trt_engine`, and the engines of every graph into the bundle, where there is one.

    Args:
        spec: The spec file; of it `gen_trt_engine`, `encryption_key` and `results_dir` are read, and the validation set, where
            the engines run here.
        overrides: `key=value` each.
        overwrite: Replace earlier engines.

    Raises:
        SpecError: The spec is wrong, or names no ONNX file.
        CheckpointError: The graphs cannot be read, or there are engines that may not be replaced.
        EngineError: TensorRT or the GPU is missing, or the engines cannot be built or give other scores.
    """
    with Action.load(KEY, spec, overrides) as action:
        experiment = action.experiment
        section, started = experiment.gen_trt_engine, time.perf_counter()
        if section.verbose:
            logging.getLogger("changenet.tensorrt").setLevel(logging.DEBUG)
        exported = storage.join(experiment.action_dir("export"), "bundle")
        named = _onnx_file(experiment, exported)
        source = find_source(named, exported=[exported], encryption_key=experiment.secret())
        if source.bundle is None:
            logger.info("%s belongs to no bundle: only its own engine is built.", source.where)
        bundle = source.bundle
        generated = generate(
            source,
            _settings(experiment),
            section.trt_engine or action.path("model.engine"),
            encryption_key=experiment.secret(),
            timing_cache=section.timing_cache,
            overwrite=overwrite,
            validation=validation_pairs(experiment, bundle.manifest.description, COMPARED) if bundle else None,
        )
        _tell(generated, seconds=time.perf_counter() - started)
    return 0


def _onnx_file(experiment: Experiment, exported: str) -> str:
    if named := experiment.gen_trt_engine.onnx_file:
        return named
    if not is_bundle(exported):
        fix = "Run changenet export, or name a bundle folder or an ONNX file."
        raise SpecError(f"not given, and there is no bundle at {exported}", where=f"{KEY}.onnx_file", fix=fix)
    return exported


def _settings(experiment: Experiment) -> BuildSettings:
    section = experiment.gen_trt_engine
    wanted, size = section.tensorrt, section.batch_size
    profile = (wanted.min_batch_size, wanted.opt_batch_size, wanted.max_batch_size)
    return BuildSettings(
        precision=wanted.data_type.lower(),
        batch=(size, size, size) if size > 0 else profile,
        workspace_mb=wanted.workspace_size,
        rules=parse_rules(wanted.layers_precision),
        capability=wanted.compute_capability,
        device=f"cuda:{section.gpu_id}",
    )


def _tell(generated: Generated, *, seconds: float) -> None:
    tag, parity = generated.tag, generated.parity
    rows = [(path, f"{size / 1e6:,.2f}") for path, size in generated.files.items()]
    title = f"{tag.package} {tag.version}, {tag.precision}, compute capability {tag.capability}"
    out.print(result_table(title, ("file", "MB"), rows))
    agreement = "Built, and not run"
    if parity.max_error is not None:
        agreement = f"Scores agree with ONNX Runtime to {parity.max_error:.1e}"
    if parity.agreement is not None:
        agreement = f"{agreement}, and {parity.agreement:.2%} of the decisions on validation pairs"
        if parity.agreement < parity.min_agreement:
            logger.warning("That is less than %g: engine: auto does not take it.", parity.min_agreement)
    smallest, usual, largest = tag.batch
    out.print(f"{agreement}; batches of {smallest} to {largest}, best at {usual}; {seconds:.1f} s.", highlight=False)
    if parity.max_error is None:
        line = "Engine auto takes none that was not run. Where its GPU is, name the engine: changenet evaluate … evaluate.engine=tensorrt"
        err.print(line, soft_wrap=True)
    if generated.signature_lost:
        line = "The signature of the bundle was that of the files before. Sign it again: changenet sign"
        err.print(line, soft_wrap=True)
