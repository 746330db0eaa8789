"""How transformer and spatial prior of a ViT-Adapter tell each other what they see.

`context` is everywhere the tokens of the maps at strides 8, 16 and 32, one map after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from changenet.model.backbones.deformable import DeformableAttention, Size, cell_centres
from changenet.model.backbones.vit import as_map, as_tokens
from changenet.torchvision_compat import timm

CONTEXT_LEVELS = 3
RESIDUAL_SCALE = 1e-5  # at first the adapter leaves the transformer as it was trained


class ConvFeedForward(nn.Module):
    """A narrow feed-forward layer with a depthwise convolution, the same one on each map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = width // 4
        self.reduce = nn.Linear(width, narrow)
        self.depthwise = nn.Conv2d(narrow, narrow, kernel_size=3, padding=1, groups=narrow)
        self.expand = nn.Linear(narrow, width)

    def forward(self, context: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return tokens (B, Q, D)."""
        parts = torch.split(self.reduce(context), [rows * columns for rows, columns in sizes], dim=1)
        mixed = [as_tokens(self.depthwise(as_map(part, size))) for part, size in zip(parts, sizes, strict=True)]
        out: Tensor = self.expand(F.gelu(torch.cat(mixed, dim=1)))
        return out


class Injector(nn.Module):
    """The patch tokens look at the context."""

    def __init__(self, width: int, *, norm_eps: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=norm_eps)
        self.value_norm = nn.LayerNorm(width, eps=norm_eps)
        self.attention = DeformableAttention(width, levels=CONTEXT_LEVELS)
        self.scale = nn.Parameter(torch.full((width,), RESIDUAL_SCALE))

    def forward(self, patches: Tensor, size: Size, context: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return the patch tokens (B, N, D)."""
        seen = self.attention(self.query_norm(patches), cell_centres([size], patches), self.value_norm(context), sizes)
        out: Tensor = patches + self.scale * seen
        return out


class Extractor(nn.Module):
    """The context looks at the patch tokens."""

    def __init__(self, width: int, *, norm_eps: float, drop_path: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=norm_eps)
        self.value_norm = nn.LayerNorm(width, eps=norm_eps)
        self.attention = DeformableAttention(width, levels=1)
        self.forward_norm = nn.LayerNorm(width, eps=norm_eps)
        self.feed_forward = ConvFeedForward(width)
        self.drop_path = timm.layers.DropPath(drop_path)

    def forward(self, context: Tensor, sizes: Sequence[Size], patches: Tensor, size: Size) -> Tensor:
        """Return the context (B, Q, D)."""
        seen = self.attention(self.query_norm(context), cell_centres(sizes, context), self.value_norm(patches), [size])
        context = context + seen
        out: Tensor = context + self.drop_path(self.feed_forward(self.forward_norm(context), sizes))
        return out


class Interaction(nn.Module):
    """What happens before and after a quarter of the transformer's blocks.

    Args:
        width: D.
        extractors: How often the context looks at the patch tokens afterwards.
        norm_eps: Of the layer norms.
        drop_path: Probability with which a training sample skips the feed-forward layer of an extractor.
    """

    def __init__(self, width: int, *, extractors: int, norm_eps: float, drop_path: float) -> None:
        super().__init__()
        self.injector = Injector(width, norm_eps=norm_eps)
        self.extractors = nn.ModuleList(
            [Extractor(width, norm_eps=norm_eps, drop_path=drop_path) for _ in range(extractors)]
        )

    def forward(
        self,
        tokens: Tensor,
        context: Tensor,
        run: Callable[[Tensor], Tensor],
        *,
        extra: int,
        size: Size,
        sizes: Sequence[Size],
    ) -> tuple[Tensor, Tensor]:
        """Return tokens and context after the blocks.

        Args:
            tokens: Of the transformer, (B, extra + N, D).
            context: (B, Q, D).
            run: The blocks.
            extra: How many tokens come before the patches; they only pass through the blocks.
            size: Rows and columns of the patches.
            sizes: Rows and columns of the context's maps.
        """
        patches = self.injector(tokens[:, extra:], size, context, sizes)
        tokens = run(torch.cat([tokens[:, :extra], patches], dim=1))
        for extractor in self.extractors:
            context = extractor(context, sizes, tokens[:, extra:], size)
        return tokens, context
