"""`changenet convert`: a TAO checkpoint becomes one of ours, which describes itself. Needs no Ray and no data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from changenet import encryption, storage
from changenet.adoption import SpecDescribes, spec_inside
from changenet.errors import CheckpointError
from changenet.model.tao_file import TaoCheckpoint, recognise
from changenet.model.weight_files import read_pickled
from changenet.spec import Experiment, load_spec
from changenet.training.checkpoint import Checkpoint, adopt_tao, save_checkpoint
from ray_jobs.console import out, result_table

logger = logging.getLogger(__name__)


def run(source: str, spec: str, target: str, overrides: Sequence[str] = (), *, overwrite: bool = False) -> int:
    """Write the checkpoint and say what was read and what is different from now on.

    Args:
        source: A TAO checkpoint: path or URI, of any name.
        spec: The spec that it was trained with; it decides how the network is built, with what it leaves out taken from
            the spec inside the checkpoint.
        target: The file to write; encrypted when the spec has an `encryption_key`.
        overrides: `key=value` over the spec.
        overwrite: Replace an earlier file.

    Raises:
        SpecError: The spec is wrong, or contradicts the one inside the checkpoint.
        CheckpointError: The source is no TAO checkpoint or does not fit the spec, or the target exists.
    """
    if storage.exists(target) and (not overwrite or storage.absolute(target) == storage.absolute(source)):
        raise CheckpointError("exists", where=target, fix="Choose another --to, or add --overwrite to replace it.")
    if not storage.exists(source):
        raise CheckpointError("no such file", where=source, fix="Check --from.")
    loaded = load_spec(spec, overrides)
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    experiment = loaded.experiment
    tao = recognise(read_pickled(encryption.read_model(source, experiment.secret()), where=source), where=source)
    if tao is None:
        raise CheckpointError(
            "is no checkpoint of TAO's Visual ChangeNet", where=source, fix="Ours need no conversion."
        )
    checkpoint = adopt_tao(tao, SpecDescribes(experiment, source)(tao), where=source)
    save_checkpoint(target, checkpoint, encryption_key=experiment.secret())
    out.print(result_table("Read", ("what", "value"), list(_rows(tao, checkpoint))))
    for line in _remarks(tao, experiment, checkpoint):
        out.print(f"- {line}", soft_wrap=True)
    out.print(f"Written to {target}{' (encrypted)' if experiment.secret() else ''}", soft_wrap=True)
    return 0


def _rows(tao: TaoCheckpoint, checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    description = checkpoint.description
    network, layout = description.network, description.layout
    yield "tensors", f"{len(tao.tensors)}, {sum(tensor.numel() for tensor in tao.tensors.values()):,} numbers"
    yield "network", f"{network['backbone']}, {description.difference_module}"
    yield "pictures", f"{layout.shape[2]} x {layout.shape[1]} pixels, lights: {', '.join(layout.lights) or 'one'}"
    if description.num_golden > 1:
        yield "goldens", str(description.num_golden)
    yield "threshold", f"{description.threshold.value:g}"
    if tao.epoch is not None:
        yield "epoch", str(tao.epoch)


def _remarks(tao: TaoCheckpoint, experiment: Experiment, checkpoint: Checkpoint) -> Iterator[str]:
    yield (
        "The file states the spec of its training: what your spec writes agrees with it, what yours leaves out is as there."
        if spec_inside(tao)
        else "The file states no spec: yours decides, and what tensor shapes cannot show is taken from it: the order of the "
        "lights, concat_type, mean and std."
    )
    if experiment.model.classify.eval_margin is None:
        yield (
            "Your spec writes no eval_margin: the threshold is the default. Evaluate with evaluate.threshold.policy=recall "
            "to fit one on validation."
        )
    if checkpoint.description.difference_module == "learnable" and experiment.model.decode_head.align_corners:
        yield "align_corners is off in the file written: TAO ignores it."
    if tao.class_weights:
        listed = [round(weight, 6) for weight in tao.class_weights]
        yield f"Class weights of the loss {listed} are not kept: train.classify.cls_weight decides in training."
    yield "Optimiser and schedule are not kept: train on with train.pretrained_model_path, at epoch 0."
