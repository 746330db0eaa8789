"""Any timm model with feature maps as an encoder: `timm/<name>`. Nothing is downloaded."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from changenet.errors import SpecError
from changenet.model.backbones.adapter import vit_encoder
from changenet.model.backbones.registry import Backbone, Request, register
from changenet.model.backbones.resampling import resample_codes
from changenet.model.backbones.timm_vit import FAMILIES, TimmVit, is_plain_vit
from changenet.model.backbones.vit import PATCH
from changenet.model.catalogue import BACKBONE_KEY, TIMM_PREFIX, Triple, unknown_backbone
from changenet.torchvision_compat import timm

logger = logging.getLogger(__name__)
WANTED_STRIDES = (4, 8, 16, 32)


def timm_name(name: str) -> str:
    """Return the timm model name of `timm/<name>`.

    Raises:
        SpecError: timm has no such model; the nearest name is suggested.
    """
    bare = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(bare):
        raise unknown_backbone(name, [TIMM_PREFIX + known for known in timm.list_models()])
    return bare


def timm_normalisation(name: str) -> tuple[Triple, Triple]:
    """Return mean and standard deviation of the model's own weights."""
    config = timm.get_pretrained_cfg(timm_name(name))
    mean, std = (
        (config.mean, config.std) if config else (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    )
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def choose_levels(strides: Sequence[int]) -> list[int]:
    """Return the indices of the four feature maps to use, given the strides of all.

    For each of 4, 8, 16, 32 the deepest map of the nearest stride; of a model whose maps all have one stride four evenly spaced ones.

    Raises:
        ValueError: There are fewer than four maps to choose from.

    >>> choose_levels([2, 4, 8, 16, 32])
    [1, 2, 3, 4]
    >>> choose_levels([16] * 12)
    [2, 5, 8, 11]
    """
    if len(strides) < len(WANTED_STRIDES):
        raise ValueError(f"{len(strides)} feature maps")
    nearest = [
        min(range(len(strides)), key=lambda index: (abs(math.log2(strides[index] / wanted)), -index))
        for wanted in WANTED_STRIDES
    ]
    if nearest == sorted(set(nearest)):
        return nearest
    return [len(strides) * (part + 1) // 4 - 1 for part in range(4)]


@register(TIMM_PREFIX)
def build_timm(name: str, request: Request) -> Backbone:
    """Build the timm model: plain vision transformers with an adapter, everything else from its own feature maps."""
    if request.feat_downsample:
        logger.warning("feat_downsample has no effect on %s: only FAN has it", name)
    bare = timm_name(name)
    if timm.models.is_model_in_modules(bare, FAMILIES):
        with torch.device("meta"):
            plain = is_plain_vit(timm.create_model(bare, pretrained=False, num_classes=0))
        if plain:
            return build_timm_vit(bare, request)
    return TimmEncoder(name=bare, image_size=request.image_size)


def build_timm_vit(name: str, request: Request) -> Backbone:
    """Build a plain transformer: its own patches for the vector, patches of 16 pixels for the adapter.

    Raises:
        SpecError: The picture is no whole number of patches, or the transformer does not fit the adapter.
    """
    patch = {} if request.vector else {"patch_size": PATCH}
    try:
        model = timm.create_model(
            name, pretrained=False, num_classes=0, img_size=request.image_size, dynamic_img_size=True, **patch
        )
        vit = TimmVit(model)
        unit = vit.patch if request.vector else 2 * PATCH
        if any(side % unit for side in request.image_size):
            raise ValueError(f"both sides must be multiples of {unit}")
        return vit_encoder(vit, request)
    except (AssertionError, ValueError, TypeError) as error:
        raise _unfit(name, request.image_size, error, "Choose another size, or another model.") from error


class TimmEncoder(Backbone):
    """Four feature maps of a timm model.

    Args:
        name: timm's model name.
        image_size: Height and width of the picture.

    Raises:
        SpecError: The model has no feature maps, or fewer than four.
    """

    def __init__(self, *, name: str, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.name = name
        config = timm.get_pretrained_cfg(name)
        options: dict[str, Any] = {"features_only": True, "pretrained": False}
        if config is not None and config.fixed_input_size:
            options["img_size"] = image_size
        try:
            with torch.device("meta"):
                maps = timm.create_model(name, **options).feature_info.info
            chosen = choose_levels([int(each["reduction"]) for each in maps])
            self.model = timm.create_model(name, out_indices=chosen, **options)
        except (RuntimeError, AttributeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
            fix = "Choose a model with at least four feature maps, e.g. timm/tf_efficientnet_lite0."
            raise _unfit(name, image_size, error, fix) from error
        self.widths = tuple(self.model.feature_info.channels())
        self.strides = tuple(self.model.feature_info.reduction())
        self._channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the four maps of a normalised picture (B, 3, H, W)."""
        maps: list[Tensor] = self.model(picture)
        return tuple(each.permute(0, 3, 1, 2) for each in maps) if self._channels_last else tuple(maps)

    def level_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return height and width of each map: paddings differ between models, so one blank picture is encoded."""
        device = next(self.parameters()).device
        training = self.training
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, *image_size, device=device))
        self.train(training)
        return tuple((each.shape[2], each.shape[3]) for each in maps)

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of a plain timm state dict under the names that timm's feature wrappers give them."""
        ours = {_plain(name): name for name in self.state_dict()}
        return {ours.get(_plain(name), name): tensor for name, tensor in tensors.items()}

    def interpolated(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return position codes of another grid, or biases of another window, as this model has them."""
        wanted, (owner, _, kind) = self.state_dict()[name], name.rpartition(".")
        module: Any = self.get_submodule(owner)
        if kind == "pos_embed" and hasattr(module, "patch_embed"):
            grid = module.patch_embed.grid_size
            return resample_codes(tensor, grid, before=wanted.shape[1] - math.prod(grid))
        if kind != "relative_position_bias_table" or tensor.ndim != wanted.ndim:
            return None
        try:
            table: Tensor = timm.layers.resize_rel_pos_bias_table(tensor, module.window_size, wanted.shape)
        except ValueError:  # of a window that is no square
            return None
        return table


def _unfit(name: str, image_size: tuple[int, int], error: Exception, fix: str) -> SpecError:
    what = f"timm's {name!r} cannot serve as an encoder of {image_size[0]}x{image_size[1]} pictures: {error}"
    return SpecError(what, where=BACKBONE_KEY, fix=fix)


def _plain(name: str) -> str:
    """Return the common form of a name: the wrappers write `model.blocks.0` or `stages_0` for `blocks.0`, `stages.0`."""
    return name.removeprefix("model.").removeprefix("model.").replace(".", "_")
