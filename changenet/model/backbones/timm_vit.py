"""timm's plain vision transformers, token by token, at any picture size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from changenet.model.backbones.dino_names import timm_names
from changenet.model.backbones.resampling import resample_codes, resample_grid, resample_kernel, square_grid
from changenet.model.backbones.vit import PlainVit, as_tokens
from changenet.torchvision_compat import timm

FAMILIES = ("vision_transformer", "eva", "deit")  # timm's modules that have plain transformers


def is_plain_vit(model: nn.Module) -> bool:
    """Say whether this is a timm model whose tokens are patches that all pass through the same kind of blocks."""
    kinds = (timm.models.vision_transformer.VisionTransformer, timm.models.eva.Eva)
    return (
        type(model) in kinds
        and isinstance(model.patch_embed, timm.layers.PatchEmbed)
        and not getattr(model, "rope_mixed", False)
    )


class TimmVit(PlainVit):
    """A transformer of timm.

    Args:
        model: For which `is_plain_vit` holds, without a classifier.
        surplus: See `resample_grid`; for positions that are interpolated while it runs.
    """

    def __init__(self, model: Any, *, surplus: float = 0.0) -> None:
        super().__init__()
        self.surplus = surplus
        self.model = model
        self.width, self.depth, self.extra = model.embed_dim, len(model.blocks), model.num_prefix_tokens
        self.patch = model.patch_embed.patch_size[0]
        self.vector_width = model.head_hidden_size
        self.grid: tuple[int, int] = tuple(model.patch_embed.grid_size)
        # How many codes come before those of the patches.
        self._coded = 0 if model.pos_embed is None or model.no_embed_class else model.num_prefix_tokens

    def tokens(self, picture: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return extra and patch tokens (B, extra + N, D), and the rotary code of the patches' places, if any."""
        patches = as_tokens(self.model.patch_embed.proj(picture))
        patches = self.model.patch_embed.norm(patches)
        size = self.grid_size(picture)
        codes = self._codes(size)
        if codes is not None and not self._coded:
            patches = patches + codes
        extra = [token.expand(patches.shape[0], -1, -1) for token in self.extra_tokens()]
        tokens = torch.cat([*extra, patches], dim=1)
        if codes is not None and self._coded:
            tokens = tokens + codes
        tokens = self.model.norm_pre(self.model.pos_drop(tokens))
        rope = getattr(self.model, "rope", None)
        return tokens, None if rope is None else rope.get_embed(shape=size)

    def run(self, tokens: Tensor, blocks: Iterable[int], rotary: Tensor | None) -> Tensor:
        """Return the tokens after some of the blocks."""
        for index in blocks:
            block = self.model.blocks[index]
            tokens = block(tokens) if rotary is None else block(tokens, rope=rotary)
        return tokens

    def vector(self, tokens: Tensor) -> Tensor:
        """Return the vector before the classifier, pooled as the model does it."""
        out: Tensor = self.model.forward_head(self.model.norm(tokens), pre_logits=True)
        return out

    def extra_tokens(self) -> tuple[nn.Parameter, ...]:
        """Return class token and registers, where the model has them."""
        return tuple(token for token in (self.model.cls_token, self.model.reg_token) if token is not None)

    def only_for_vectors(self) -> tuple[nn.Module, ...]:
        """Return the last norms and the pooling."""
        parts = (self.model.norm, self.model.fc_norm, self.model.attn_pool)
        return tuple(part for part in parts if part is not None)

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of timm's, TAO's, Meta's or Hugging Face's files under our names."""
        named = timm_names({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
        positions = named.get("pos_embed")
        if positions is not None and not self._coded and square_grid(positions, before=1) is not None:
            # There the class token has a code of its own, here it is part of the token.
            named["cls_token"] = named["cls_token"] + positions[:, :1]
            named["pos_embed"] = positions[:, 1:]
        if isinstance(self.model, timm.models.eva.Eva):
            named = {
                name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): each
                for name, each in named.items()
            }
        return {f"model.{name}": tensor for name, tensor in named.items()}

    def interpolated(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return a patch kernel or position codes of another size as this transformer has them."""
        if name == "model.patch_embed.proj.weight" and tensor.ndim == 4:
            return resample_kernel(tensor, self.patch)
        return resample_codes(tensor, self.grid, before=self._coded) if name == "model.pos_embed" else None

    def _codes(self, size: tuple[int, int]) -> Tensor | None:
        """Return the position codes (1, N, D), with those of the extra tokens where they have some."""
        codes: Tensor | None = self.model.pos_embed
        if codes is None or size == self.grid:
            return codes
        grid = torch.unflatten(codes[:, self._coded :], 1, self.grid)
        resampled = resample_grid(grid, size, surplus=self.surplus)
        return torch.cat([codes[:, : self._coded], resampled.flatten(1, 2)], dim=1)
