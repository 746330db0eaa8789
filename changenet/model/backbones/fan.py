"""FAN-Hybrid encoders: two ConvNeXt stages, then fully attentional blocks on tokens of 16 x 16 pixels.

Levels at strides 4, 8, 16, 16. Tokens stay (B, H, W, D) wherever they can: that is the memory order of a channels-last
map, so turning tokens into maps and back costs no copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from changenet.model.backbones.fan_names import fan_names
from changenet.model.backbones.registry import Backbone, Request, register
from changenet.model.catalogue import DOWNSAMPLED_WIDTH, backbone_facts
from changenet.torchvision_compat import timm

NORM_EPS = 1e-6
STAGE_WIDTHS = (128, 256)
TokenNorm = partial(nn.LayerNorm, eps=NORM_EPS)


@dataclass(frozen=True)
class FanSettings:
    """How the four variants differ.

    Args:
        heads: Attention heads, in token and channel mixing alike.
        blocks: Attention blocks.
        tapped: Index of the block whose output is level 3.
        stage_depths: ConvNeXt blocks of the two convolutional stages.
    """

    heads: int
    blocks: int
    tapped: int
    stage_depths: tuple[int, int] = (3, 3)


FAN_SETTINGS = {
    "fan_tiny_8_p4_hybrid": FanSettings(heads=8, blocks=8, tapped=7),
    "fan_small_12_p4_hybrid": FanSettings(heads=8, blocks=10, tapped=9),
    "fan_base_16_p4_hybrid": FanSettings(heads=8, blocks=16, tapped=15),
    "fan_large_16_p4_hybrid": FanSettings(heads=10, blocks=22, tapped=18, stage_depths=(3, 5)),
}


class StageNorm(nn.LayerNorm):
    """Layer norm over channels (last) whose variance is the sample variance, divided by C - 1.

    TAO 7.3 computes it so in the convolutional stages (not in the stem); its checkpoints want the same. Written as an
    ordinary layer norm with scaled weight and epsilon, which is equal and fast.
    """

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__(channels, eps=NORM_EPS, **factory)
        self.factor = (channels - 1) / channels

    def forward(self, values: Tensor) -> Tensor:
        """Return the normalised values (…, C)."""
        weight = self.weight * math.sqrt(self.factor)
        return F.layer_norm(values, self.normalized_shape, weight, self.bias, self.eps * self.factor)


class StageNorm2d(StageNorm):
    """The same for maps (B, C, H, W)."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the normalised map, channels last in memory."""
        return super().forward(values.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PositionCode(nn.Module):
    """Sines and cosines of row and column, 32 of each, projected to the token width."""

    def __init__(self, width: int, *, frequencies: int = 32, temperature: float = 10_000.0) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.temperature = temperature
        self.project = nn.Conv2d(2 * frequencies, width, kernel_size=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the code (1, D, H, W) of a token map (B, D, H, W)."""
        height, width = tokens.shape[-2:]
        rows = self._waves(height, tokens)[:, :, None].expand(-1, -1, width)
        columns = self._waves(width, tokens)[:, None, :].expand(-1, height, -1)
        code: Tensor = self.project(torch.cat([rows, columns])[None])
        return code

    def _waves(self, length: int, like: Tensor) -> Tensor:
        """Return (frequencies, length): sine on even rows, cosine on odd ones."""
        place = torch.arange(1, length + 1, device=like.device, dtype=torch.float32)
        place = place * (2 * math.pi / (length + NORM_EPS))
        index = torch.arange(self.frequencies // 2, device=like.device, dtype=torch.float32)
        angle = place[None, :] / self.temperature ** (2 * index / self.frequencies)[:, None]
        return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1)


class Attention(nn.Module):
    """Multi-head attention of tokens among themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mixed tokens, (B, N, D) as they came."""
        query = torch.unflatten(self.query(tokens), -1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d)
        key, value = torch.unflatten(self.key_value(tokens), -1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out


class ConvolutionalMlp(nn.Module):
    """A wide linear layer, depthwise convolutions on the token map, and a linear layer back."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.scale = nn.Parameter(torch.ones(hidden))
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden),
            nn.GELU(),
            nn.BatchNorm2d(hidden),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden),
        )
        self.reduce = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens (B, N, D) from tokens that form a map of `size` (rows, columns)."""
        wide = self.expand(tokens)
        token_map = _as_map(wide, size)
        mixed = self.depthwise(token_map).permute(0, 2, 3, 1).flatten(1, 2)
        out: Tensor = self.reduce(wide + self.scale * mixed)
        return out


class ChannelMix(nn.Module):
    """Gates each channel of a convolutional MLP by how its query agrees with its head's mean key over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.query = nn.Linear(width, width)
        self.mlp = ConvolutionalMlp(width, 4 * width)
        self.value_norm = TokenNorm(width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the gated tokens (B, N, D)."""
        # The softmaxes run over all tokens: in half precision their small values would vanish.
        query = torch.unflatten(self.query(tokens).softmax(dim=1, dtype=torch.float32), -1, (self.heads, -1))
        key = torch.unflatten(tokens.softmax(dim=1, dtype=torch.float32), -1, (self.heads, -1))  # (B, N, heads, d)
        agreement = (query * key.mean(dim=-1, keepdim=True)).sum(dim=1)  # (B, heads, d)
        gate = agreement.sigmoid() * self.temperature.flatten(1)
        value: Tensor = self.value_norm(self.mlp(tokens, size))
        return value * gate.flatten(1)[:, None].to(value.dtype)


class FanBlock(nn.Module):
    """Token mixing, then channel mixing, each on normalised tokens with a scaled residual."""

    def __init__(self, width: int, heads: int, *, drop_path: float) -> None:
        super().__init__()
        self.token_norm = TokenNorm(width)
        self.token_mix = Attention(width, heads)
        self.token_scale = nn.Parameter(torch.ones(width))
        self.channel_norm = TokenNorm(width)
        self.channel_mix = ChannelMix(width, heads)
        self.channel_scale = nn.Parameter(torch.ones(width))
        self.drop_path = timm.layers.DropPath(drop_path)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens (B, N, D)."""
        tokens = tokens + self.drop_path(self.token_scale * self.token_mix(self.token_norm(tokens)))
        mixed = self.channel_mix(self.channel_norm(tokens), size)
        return tokens + cast("Tensor", self.drop_path(self.channel_scale * mixed))


class ClassAttentionBlock(nn.Module):
    """What a class-attention block does to the patch tokens: norm, scaled residual, norm, doubling.

    The class token is never fed back into the patch tokens and the pyramid drops it, so it is not computed. Its weights
    are kept, without gradient, because checkpoints hold them.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.token_norm = TokenNorm(width)
        self.token_scale = nn.Parameter(torch.ones(width))
        self.output_norm = TokenNorm(width)
        self.class_attention = Attention(width, heads).requires_grad_(False)
        self.class_mlp = timm.layers.Mlp(width, 4 * width).requires_grad_(False)
        self.class_scale = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the patch tokens (B, N, D)."""
        tokens = tokens + self.token_scale * self.token_norm(tokens)
        return 2 * cast("Tensor", self.output_norm(tokens))


@register(*FAN_SETTINGS)
def build_fan(name: str, request: Request) -> FanHybrid:
    """Build the variant `name`; any picture size will do whose sides are multiples of its largest stride."""
    return FanHybrid(name=name, feat_downsample=request.feat_downsample)


class FanHybrid(Backbone):
    """The encoder of the reference's section 4.1.

    Args:
        name: One of `FAN_SETTINGS`.
        feat_downsample: Reduce the last level to stride 32, 768 channels wide.
        drop_path: Probability with which a training sample skips the residual of an attention block, in all blocks.
    """

    def __init__(self, *, name: str, feat_downsample: bool = False, drop_path: float = 0.3) -> None:
        super().__init__()
        settings = FAN_SETTINGS[name]
        facts = backbone_facts(name, feat_downsample=feat_downsample)
        assert facts.widths is not None
        assert facts.strides is not None
        width = facts.widths[2]
        self.widths, self.strides, self.tapped = facts.widths, facts.strides, settings.tapped
        self.stem = nn.Sequential(
            nn.Conv2d(3, STAGE_WIDTHS[0], kernel_size=4, stride=4), timm.layers.LayerNorm2d(STAGE_WIDTHS[0])
        )
        stage = partial(
            timm.models.convnext.ConvNeXtStage,
            ls_init_value=1e-6,
            norm_layer=StageNorm2d,
            norm_layer_cl=StageNorm,
        )
        self.stages = nn.ModuleList(
            [
                stage(STAGE_WIDTHS[0], STAGE_WIDTHS[0], stride=1, depth=settings.stage_depths[0]),
                stage(STAGE_WIDTHS[0], STAGE_WIDTHS[1], stride=2, depth=settings.stage_depths[1]),
            ]
        )
        self.tokenise = nn.Conv2d(STAGE_WIDTHS[1], width, kernel_size=2, stride=2)
        self.position = PositionCode(width)
        self.blocks = nn.ModuleList(
            [FanBlock(width, settings.heads, drop_path=drop_path) for _ in range(settings.blocks)]
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, width), requires_grad=False)  # see ClassAttentionBlock
        self.class_blocks = nn.ModuleList([ClassAttentionBlock(width, settings.heads) for _ in range(2)])
        self.downsample = (
            nn.Conv2d(width, DOWNSAMPLED_WIDTH, kernel_size=3, stride=2, padding=1) if feat_downsample else None
        )
        self.apply(_initialise)
        for conv in self.stages.modules():
            if isinstance(conv, nn.Conv2d):
                _initialise_truncated(conv)
        _initialise_truncated(cast("nn.Conv2d", self.stem[0]))

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the four maps of a normalised picture (B, 3, H, W), H and W multiples of the largest stride."""
        level_1 = self.stages[0](self.stem(picture))
        level_2 = self.stages[1](level_1)
        token_map = self.tokenise(level_2)
        token_map = token_map + self.position(token_map).to(token_map.dtype)
        size = (token_map.shape[2], token_map.shape[3])
        tokens = token_map.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, D)
        level_3 = token_map
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, size)
            if index == self.tapped:
                level_3 = _as_map(tokens, size)
        for block in self.class_blocks:
            tokens = block(tokens)
        level_4 = _as_map(tokens, size)
        if self.downsample is not None:
            level_4 = self.downsample(level_4)
        return level_1, level_2, level_3, level_4

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors that TAO named under our names."""
        return fan_names(tensors)

    def kept_trainable(self) -> tuple[nn.Module, ...]:
        """Return the reduction of the last level: no pretrained file has it."""
        return () if self.downsample is None else (self.downsample,)


def _as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the map (B, D, H, W), channels last in memory, that the tokens (B, N, D) form."""
    return torch.unflatten(tokens, 1, size).permute(0, 3, 1, 2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        _initialise_truncated(module)


def _initialise_truncated(module: nn.Linear | nn.Conv2d) -> None:
    nn.init.trunc_normal_(module.weight, std=0.02)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
