"""What a plain vision transformer offers to the rest: its tokens, its blocks one range at a time, and one vector."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from changenet.model.backbones.registry import Backbone

PATCH = 16  # pixels: the side of a patch wherever levels at 4, 8, 16 and 32 are made from the tokens


def as_tokens(values: Tensor) -> Tensor:
    """Return a map (B, D, H, W) as tokens (B, H * W, D)."""
    return values.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the map (B, D, H, W) that tokens (B, H * W, D) form."""
    return torch.unflatten(tokens.transpose(1, 2), 2, size)


class PlainVit(nn.Module):
    """A vision transformer whose tokens are some extra ones (class, registers) and then the patches, row by row.

    Subclasses set the attributes and implement the methods.

    Attributes:
        width: D, of a token.
        depth: Number of blocks.
        extra: Number of extra tokens; they come first.
        patch: Side of a patch, pixels.
        vector_width: Of what `vector` returns.
    """

    width: int
    depth: int
    extra: int
    patch: int
    vector_width: int

    def tokens(self, picture: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the tokens (B, extra + N, D) of a normalised picture and the rotary code of its places, if any."""
        raise NotImplementedError

    def run(self, tokens: Tensor, blocks: Iterable[int], rotary: Tensor | None) -> Tensor:
        """Return the tokens after some of the blocks."""
        raise NotImplementedError

    def vector(self, tokens: Tensor) -> Tensor:
        """Return one vector (B, vector_width) from the tokens that the last block gave."""
        raise NotImplementedError

    def extra_tokens(self) -> tuple[nn.Parameter, ...]:
        """Return the learned extra tokens."""
        raise NotImplementedError

    def only_for_vectors(self) -> tuple[nn.Module, ...]:
        """Return the parts that `vector` alone uses."""
        return ()

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of a file made for this transformer under our names."""
        return tensors

    def interpolated(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return a tensor of another size as this transformer needs it; None where interpolating has no meaning."""
        raise NotImplementedError

    def grid_size(self, picture: Tensor) -> tuple[int, int]:
        """Return rows and columns of patches in a picture (B, 3, H, W)."""
        return picture.shape[-2] // self.patch, picture.shape[-1] // self.patch


class VitVector(Backbone):
    """One vector of a plain vision transformer, for the euclidean comparison.

    Args:
        vit: The transformer.
    """

    def __init__(self, vit: PlainVit) -> None:
        super().__init__()
        self.vit = vit
        self.vector_width = vit.vector_width

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the vector (B, vector_width), alone in a tuple."""
        tokens, rotary = self.vit.tokens(picture)
        return (self.vit.vector(self.vit.run(tokens, range(self.vit.depth), rotary)),)

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the transformer's tensors under our names."""
        return vit_names(self.vit, tensors)

    def interpolated(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return a patch kernel or a position grid of another size as this encoder needs it."""
        return self.vit.interpolated(name.removeprefix("vit."), tensor)


def vit_names(vit: PlainVit, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of a transformer's file under the names that they have in a backbone with a `vit`."""
    bare = {name.removeprefix("vit."): tensor for name, tensor in tensors.items()}
    return {f"vit.{name}": tensor for name, tensor in vit.weight_names(bare).items()}
