"""The registry of encoders, and what an encoder promises."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from changenet.model.catalogue import CATALOGUE, TIMM_PREFIX, Triple, backbone_facts


class Backbone(nn.Module):
    """An encoder: normalised picture (B, 3, H, W) -> four feature maps, finest first, or one vector.

    Subclasses set `widths` and `strides` (of the four maps), or `vector_width`, and implement `forward`.
    """

    widths: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    vector_width: int | None = None

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, widths[i], H / strides[i], W / strides[i]), or the vector (B, vector_width) alone."""
        raise NotImplementedError

    def level_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return height and width of each map for a picture of `image_size` (height, width)."""
        height, width = image_size
        return tuple((height // stride, width // stride) for stride in self.strides)

    def kept_trainable(self) -> tuple[nn.Module | nn.Parameter, ...]:
        """Return the parts that still learn when the encoder is frozen."""
        return ()

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of a file made for this encoder under our names, where file and encoder name them apart."""
        return tensors

    def interpolated(self, name: str, tensor: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return a tensor of another shape than this encoder's as it needs it; None where that has no meaning.

        Args:
            name: Our name of the tensor.
            tensor: As a file has it.
        """
        return None


@dataclass(frozen=True)
class Request:
    """What is asked of a builder.

    Args:
        image_size: Height and width of the (concatenated) picture.
        vector: One vector will do: an encoder that has one gives it instead of four maps.
        levels: How many maps take part, counted from the coarsest; an encoder need not train what the others need.
        feat_downsample: FAN only: the last level gets stride 32 and 768 channels.
        use_summary_token: ViT only: fuse what class tokens and registers know into the maps.
    """

    image_size: tuple[int, int]
    vector: bool = False
    levels: int = 4
    feat_downsample: bool = False
    use_summary_token: bool = True


Builder = Callable[[str, Request], Backbone]
_builders: dict[str, Builder] = {}


def register(*names: str) -> Callable[[Builder], Builder]:
    """Register a builder under encoder names, or a prefix that ends in a slash."""

    def keep(build: Builder) -> Builder:
        for name in names:
            _builders[name] = build
        return build

    return keep


def build_backbone(name: str, request: Request) -> Backbone:
    """Build an encoder with fresh weights.

    Args:
        name: One of `changenet.model.catalogue.CATALOGUE`, or `timm/<name>`.
        request: What is asked of it.

    Raises:
        SpecError: No such encoder, or it has no feature maps.
    """
    facts = backbone_facts(name)
    importlib.import_module(f"changenet.model.backbones.{facts.module}")
    return _builders[name if name in CATALOGUE else TIMM_PREFIX](name, request)


def default_normalisation(name: str) -> tuple[Triple, Triple]:
    """Return mean and standard deviation (of pixels in 0-1) that the encoder's weights were made for.

    C-RADIO's are CLIP's, as in TAO 7.3: its own input conditioner is no part of the network.

    >>> default_normalisation("timm/tf_efficientnet_lite0")
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    facts = backbone_facts(name)
    if facts.mean is not None and facts.std is not None:
        return facts.mean, facts.std
    from changenet.model.backbones.timm_encoder import timm_normalisation

    return timm_normalisation(name)
