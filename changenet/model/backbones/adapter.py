"""ViT-Adapter: levels at strides 4, 8, 16 and 32 from a plain vision transformer, for any sides that 32 divides.

A convolutional network looks at the picture beside the transformer; four times the two exchange what they see.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from changenet.model.backbones.adapter_names import adapter_names
from changenet.model.backbones.deformable import DeformableAttention
from changenet.model.backbones.interaction import CONTEXT_LEVELS, Interaction
from changenet.model.backbones.registry import Backbone, Request
from changenet.model.backbones.spatial_prior import SpatialPrior
from changenet.model.backbones.vit import PATCH, PlainVit, VitVector, as_map, as_tokens, vit_names

STRIDES = (4, 8, 16, 32)
EXTRA_EXTRACTORS = 2  # after the last blocks
NORM_EPS = 1e-6


class SummaryFusion(nn.Module):
    """A 1 x 1 convolution over [summary; map], in two halves: the summary's is the same everywhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_summary = nn.Linear(width, width)
        self.of_map = nn.Conv2d(width, width, kernel_size=1, bias=False)

    def forward(self, summary: Tensor, values: Tensor) -> Tensor:
        """Return a map (B, D, H, W) from the summary (B, D) and a map."""
        out: Tensor = self.of_map(values) + self.of_summary(summary)[:, :, None, None]
        return out


class VitAdapter(Backbone):
    """The encoder of the reference's section 4.3.

    Args:
        vit: The transformer, with patches of 16 pixels.
        use_summary_token: Fuse what the extra tokens know into every level; without effect if there are none.
        drop_path: Probability with which a training sample skips the feed-forward layer of an extractor.
        norm_eps: Of the adapter's layer norms; TAO's checkpoints of different families were trained with different ones.
        levels: How many levels take part, counted from the coarsest. What only the others need is not trained.

    Raises:
        ValueError: The transformer's width does not fit the adapter, or its patches are not 16 pixels.
    """

    def __init__(
        self,
        vit: PlainVit,
        *,
        use_summary_token: bool = True,
        drop_path: float = 0.0,
        norm_eps: float = NORM_EPS,
        levels: int = len(STRIDES),
    ) -> None:
        super().__init__()
        if vit.patch != PATCH:
            raise ValueError(f"patches of {vit.patch} pixels, not {PATCH}")
        width = vit.width
        self.widths, self.strides, self.levels = (width,) * 4, STRIDES, levels
        self.vit = vit
        self.prior = SpatialPrior(width)
        self.level_code = nn.Parameter(torch.randn(CONTEXT_LEVELS, width))
        steps = len(STRIDES)
        self.interactions = nn.ModuleList(
            [
                Interaction(width, extractors=count, norm_eps=norm_eps, drop_path=drop_path)
                for count in (*[1] * (steps - 1), 1 + EXTRA_EXTRACTORS)
            ]
        )
        self.blocks = [range(vit.depth * step // steps, vit.depth * (step + 1) // steps) for step in range(steps)]
        self.up = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.summary = nn.Linear(vit.extra * width, width) if use_summary_token and vit.extra else None
        self.fusions = nn.ModuleList([SummaryFusion(width) for _ in STRIDES] if self.summary is not None else [])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in STRIDES])
        for part in (*self.interactions, *self.fusions, *([] if self.summary is None else [self.summary])):
            _initialise(part)
        for part in (*vit.only_for_vectors(), *self._left_out()):
            part.requires_grad_(False)

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the four maps of a normalised picture (B, 3, H, W), H and W multiples of 32."""
        rows, columns = self.vit.grid_size(picture)
        size = (rows, columns)
        sizes = [(2 * rows, 2 * columns), size, (rows // 2, columns // 2)]
        finest, *coarser = self.prior(picture)
        context = torch.cat([as_tokens(each) + self.level_code[i] for i, each in enumerate(coarser)], dim=1)
        tokens, rotary = self.vit.tokens(picture)
        seen = []
        for interaction, blocks in zip(self.interactions, self.blocks, strict=True):
            run = partial(self.vit.run, blocks=blocks, rotary=rotary)
            tokens, context = interaction(tokens, context, run, extra=self.vit.extra, size=size, sizes=sizes)
            seen.append(as_map(tokens[:, self.vit.extra :], size))
        parts = torch.split(context, [height * width for height, width in sizes], dim=1)
        maps = [as_map(part, each) for part, each in zip(parts, sizes, strict=True)]
        maps = [self.up(maps[0]) + finest, *maps]
        maps = [values + _resized(patches, values) for values, patches in zip(maps, seen, strict=True)]
        if self.summary is not None:
            summary = self.summary(tokens[:, : self.vit.extra].flatten(1))
            maps = [fusion(summary, values) for fusion, values in zip(self.fusions, maps, strict=True)]
        return tuple(norm(values) for norm, values in zip(self.norms, maps, strict=True))

    def kept_trainable(self) -> tuple[nn.Module | nn.Parameter, ...]:
        """Return everything but the transformer's blocks and patches: no pretrained file of an encoder has it."""
        left_out = {id(part) for part in self._left_out()}
        parts = [
            *self.vit.extra_tokens(),
            self.level_code,
            self.prior.stem,
            self.prior.reduce,
            *self.prior.project,
            self.interactions,
            self.up,
            *([] if self.summary is None else [self.summary]),
            *self.fusions,
            *self.norms,
        ]
        return tuple(part for part in parts if id(part) not in left_out)

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of TAO's file, or of the transformer's own, under our names."""
        own, rest = adapter_names(tensors)
        return {**vit_names(self.vit, rest), **own}

    def interpolated(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return a patch kernel or a position grid of another size as this encoder needs it."""
        return self.vit.interpolated(name.removeprefix("vit."), tensor) if name.startswith("vit.") else None

    def _left_out(self) -> list[nn.Module]:
        """Return what only levels need that do not take part."""
        finer = len(STRIDES) - self.levels
        only_finest: list[nn.Module] = [self.up, self.prior.project[0]] if finer else []
        return [*only_finest, *self.fusions[:finer], *self.norms[:finer]]


def vit_encoder(
    vit: PlainVit,
    request: Request,
    *,
    use_summary_token: bool | None = None,
    drop_path: float = 0.0,
    norm_eps: float = NORM_EPS,
) -> Backbone:
    """Return the transformer's vector or its adapter's pyramid, whichever is asked for.

    Args:
        vit: The transformer.
        request: What is asked for.
        use_summary_token: Instead of what the request says.
        drop_path: See `VitAdapter`.
        norm_eps: See `VitAdapter`.
    """
    if request.vector:
        return VitVector(vit)
    summary = request.use_summary_token if use_summary_token is None else use_summary_token
    return VitAdapter(vit, use_summary_token=summary, drop_path=drop_path, norm_eps=norm_eps, levels=request.levels)


def _resized(patches: Tensor, like: Tensor) -> Tensor:
    size = (like.shape[2], like.shape[3])
    if (patches.shape[2], patches.shape[3]) == size:
        return patches
    return F.interpolate(patches, size=size, mode="bilinear", align_corners=False)


def _initialise(part: nn.Module) -> None:
    for module in part.children():
        if not isinstance(module, DeformableAttention):  # it has its own way
            _initialise(module)
    if isinstance(part, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(part.weight, std=0.02)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
