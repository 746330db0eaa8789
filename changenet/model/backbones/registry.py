"""The registry of encoders, and what an encoder promises."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from changenet.model.catalogue import IMAGENET_MEAN, IMAGENET_STD, TIMM_PREFIX, backbone_facts

Triple = tuple[float, float, float]


class Backbone(nn.Module):
    """An encoder: normalised picture (B, 3, H, W) -> four feature maps, finest first.

    Subclasses set `widths` and `strides` (of the four maps) and implement `forward`.
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, widths[i], H / strides[i], W / strides[i])."""
        raise NotImplementedError

    def level_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return height and width of each map for a picture of `image_size` (height, width)."""
        height, width = image_size
        return tuple((height // stride, width // stride) for stride in self.strides)

    def kept_trainable(self) -> tuple[nn.Module, ...]:
        """Return the parts that still learn when the encoder is frozen."""
        return ()

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of a file made for this encoder under our names, where file and encoder name them apart."""
        return tensors


Builder = Callable[..., Backbone]
_builders: dict[str, Builder] = {}
_normalisations: dict[str, Callable[[str], tuple[Triple, Triple]]] = {}


def register(*names: str) -> Callable[[Builder], Builder]:
    """Register `build(name, *, image_size, feat_downsample)` under encoder names, or a prefix that ends in a slash."""

    def keep(build: Builder) -> Builder:
        for name in names:
            _builders[name] = build
        return build

    return keep


def build_backbone(name: str, *, image_size: tuple[int, int], feat_downsample: bool = False) -> Backbone:
    """Build an encoder with fresh weights.

    Args:
        name: One of TAO's names, or `timm/<name>`.
        image_size: Height and width of the (concatenated) picture.
        feat_downsample: FAN only: the last level gets stride 32 and 768 channels.

    Raises:
        SpecError: No such encoder, or it has no feature maps.
    """
    facts = backbone_facts(name, feat_downsample=feat_downsample)
    family = TIMM_PREFIX if name.startswith(TIMM_PREFIX) else facts.name
    return _builders[family](name, image_size=image_size, feat_downsample=feat_downsample)


def default_normalisation(name: str) -> tuple[Triple, Triple]:
    """Return mean and standard deviation (of pixels in 0-1) that the encoder's weights were made for.

    >>> default_normalisation("timm/tf_efficientnet_lite0")
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    backbone_facts(name)
    if name.startswith(TIMM_PREFIX):
        from changenet.model.backbones.timm_encoder import timm_normalisation

        return timm_normalisation(name)
    return IMAGENET_MEAN, IMAGENET_STD
