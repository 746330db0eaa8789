"""The siamese network, split where a golden's share of the work can be done once and kept.

    features = network.encode(network.normalise(picture_u8))
    halves = network.prepare_golden(features of the golden)      # once a golden
    output = network.compare(features of the test, halves)       # for each test picture

With several goldens `compare` takes the halves of all of them, each level (B, N, E, H, W). `forward` does the same for
pairs, with one encoder call for test and golden together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from changenet.model.arguments import check_arguments, check_strides
from changenet.model.backbones import Request, build_backbone, default_normalisation
from changenet.model.catalogue import backbone_facts
from changenet.model.difference import DifferencePyramid
from changenet.model.golden_fusion import check_level_sizes
from changenet.model.heads import Head, HeadKind

DifferenceKind = Literal["learnable", "euclidean"]
GoldenGradients = Literal["first", "all"]
EUCLIDEAN_HIDDEN = 512
DISTANCE_EPS = 1e-6  # added to every difference, as TAO's distance does


class Normalise(nn.Module):
    """Bytes to normalised floats: (value / 255 - mean) / std. Exported with the network, so nothing can drift."""

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        offset = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        # Not part of the state dict: mean and std belong to the network's arguments.
        self.register_buffer("scale", scale.float().view(3, 1, 1), persistent=False)
        self.register_buffer("offset", offset.float().view(3, 1, 1), persistent=False)
        self.scale: Tensor
        self.offset: Tensor

    def forward(self, picture: Tensor) -> Tensor:
        """Return float32 (…, 3, H, W) from uint8 of the same shape."""
        return picture.float() * self.scale + self.offset


class ChangeNet(nn.Module):
    """Says how different a test picture is from its golden.

    Args:
        backbone: Encoder: one of `changenet.model.catalogue.CATALOGUE` or `timm/<name>`.
        difference_module: `learnable`: class logits (B, num_classes) from learned differences of the pyramid;
            `euclidean`: the distance (B,) between two embeddings.
        image_size: Height and width of the picture after its lights were combined.
        num_classes: Outputs of a learnable network, >= 2; index 0 is PASS.
        multiclass: Whether the outputs are real classes; otherwise index 1 alone means defect, as in TAO.
        embed_dim: Common width of the pyramid levels.
        embed_dec: Hidden width of the learnable head.
        embedding_vectors: Length of the euclidean embedding.
        learnable_difference_modules: Levels that are compared, 1-4, counted from the coarsest.
        head: `flatten`, `pool`, or None for the encoder's own default.
        align_corners: How maps are resized in the difference pyramid.
        feat_downsample: FAN only: last level at stride 32, 768 channels.
        use_summary_token: ViT only, learnable: fuse what class tokens and registers know into the pyramid.
        feature_strides: Strides that the spec states; checked against the encoder's (learnable only).
        mean: Of pixels in 0-1, red green blue; None for the encoder's own.
        std: Likewise.
        num_golden: N, goldens that a test picture is compared with. Above 1: learnable only, and the network is tied to
            one picture size, whose levels are multiples of 7.
        golden_gradients: Which goldens the encoder learns from in training, when there are several: the `first` of each
            pair, as in TAO, or `all`, which takes more memory and time.

    Raises:
        SpecError: Arguments that contradict each other or the encoder.
    """

    def __init__(
        self,
        *,
        backbone: str = "fan_tiny_8_p4_hybrid",
        difference_module: DifferenceKind = "learnable",
        image_size: Sequence[int] = (128, 128),
        num_classes: int = 2,
        multiclass: bool = False,
        embed_dim: int = 256,
        embed_dec: int = 30,
        embedding_vectors: int = 5,
        learnable_difference_modules: int = 4,
        head: HeadKind | None = None,
        align_corners: bool = False,
        feat_downsample: bool = False,
        use_summary_token: bool = True,
        feature_strides: Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        num_golden: int = 1,
        golden_gradients: GoldenGradients = "first",
    ) -> None:
        super().__init__()
        facts = backbone_facts(backbone, feat_downsample=feat_downsample)
        own_mean, own_std = default_normalisation(backbone)
        self._arguments: dict[str, Any] = {
            "backbone": backbone,
            "difference_module": difference_module,
            "image_size": [int(side) for side in image_size],
            "num_classes": num_classes,
            "multiclass": multiclass,
            "embed_dim": embed_dim,
            "embed_dec": embed_dec,
            "embedding_vectors": embedding_vectors,
            "learnable_difference_modules": learnable_difference_modules,
            "head": head or facts.head,
            "align_corners": align_corners,
            "feat_downsample": feat_downsample,
            "use_summary_token": use_summary_token,
            "feature_strides": None if feature_strides is None else [int(stride) for stride in feature_strides],
            "mean": [float(value) for value in (mean or own_mean)],
            "std": [float(value) for value in (std or own_std)],
            "num_golden": num_golden,
            "golden_gradients": golden_gradients,
        }
        multiple = facts.multiple(learnable=difference_module == "learnable")
        check_arguments(self._arguments, side_multiple=multiple)
        height, width = self._arguments["image_size"]
        self.image_size: tuple[int, int] = (height, width)
        self.head_kind: HeadKind = self._arguments["head"]
        self.difference_module: DifferenceKind = difference_module
        self.multiclass = multiclass
        self.num_golden = num_golden
        self.golden_gradients: GoldenGradients = golden_gradients
        self.normalise = Normalise(mean=self._arguments["mean"], std=self._arguments["std"])
        self.backbone = build_backbone(
            backbone,
            Request(
                image_size=self.image_size,
                vector=difference_module == "euclidean",
                levels=learnable_difference_modules,
                feat_downsample=feat_downsample,
                use_summary_token=use_summary_token,
            ),
        )
        self._frozen = False
        vector_width = self.backbone.vector_width
        sizes = self.backbone.level_sizes(self.image_size) if self._one_size and vector_width is None else None
        self.pyramid: DifferencePyramid | None = None
        if difference_module == "learnable":
            check_strides(self._arguments["feature_strides"], self.backbone.strides)
            fusion_size = sizes[0] if sizes else None
            if sizes and num_golden > 1:
                check_level_sizes(sizes, self.backbone.strides, image_size=self.image_size, backbone=backbone)
            self.pyramid = DifferencePyramid(
                widths=self.backbone.widths,
                embed_dim=embed_dim,
                levels=learnable_difference_modules,
                fusion_size=fusion_size,
                align_corners=align_corners,
                golden_sizes=sizes if num_golden > 1 else None,
            )
            self.head = Head(
                kind=self.head_kind, channels=embed_dim, size=fusion_size, hidden=embed_dec, outputs=num_classes
            )
        elif vector_width is not None:
            self.head = Head(
                kind="flatten",
                channels=vector_width,
                size=(1, 1),
                hidden=EUCLIDEAN_HIDDEN,
                outputs=embedding_vectors,
            )
        else:
            self.head = Head(
                kind=self.head_kind,
                channels=self.backbone.widths[-1],
                size=sizes[-1] if sizes else None,
                hidden=EUCLIDEAN_HIDDEN,
                outputs=embedding_vectors,
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain values that rebuild the network: `ChangeNet(**network.arguments)`."""
        return dict(self._arguments)

    def encode(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return what the comparison needs of a normalised picture (B, 3, H, W).

        Learnable: the levels that are compared, (B, E, H_i, W_i), coarsest first. Euclidean: the embedding (B, K).

        Raises:
            ValueError: The picture has not the size that the network was made for.
        """
        return self._features(self._maps(picture))

    def prepare_golden(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the golden's share of the comparison, from its features; worth keeping for the next test picture."""
        return tuple(features) if self.pyramid is None else self.pyramid.prepare_golden(features)

    def compare(self, test_features: Sequence[Tensor], golden_halves: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes) or distances (B,); a golden batch of one serves any number of tests.

        Args:
            test_features: Of the test pictures.
            golden_halves: Of their goldens, with the same batch or a batch of one. With several goldens each level has
                them in its second dimension: (B, N, E, H, W).

        Raises:
            ValueError: The network compares with several goldens and these are the halves of one, or the reverse.
        """
        if self.pyramid is None:
            return distance(test_features[0], golden_halves[0])
        if (golden_halves[0].ndim == 5) != (self.num_golden > 1):
            wanted = "(B, N, E, H, W)" if self.num_golden > 1 else "(B, E, H, W)"
            raise ValueError(f"golden halves must be {wanted}, got {tuple(golden_halves[0].shape)}")
        logits: Tensor = self.head(self.pyramid(test_features, golden_halves))
        return logits

    def forward(self, test: Tensor, golden: Tensor) -> Tensor:
        """Return logits (B, num_classes) or distances (B,) for normalised pictures.

        Args:
            test: (B, 3, H, W).
            golden: (B, 3, H, W), or (B, N, 3, H, W) with several goldens.
        """
        pairs, several = test.shape[0], golden.ndim == 5
        if several and self.training and self.golden_gradients == "first":
            maps = self._maps_learning_from_first(test, golden)
        else:
            maps = self._maps(torch.cat([test, golden.flatten(0, 1) if several else golden]))
        features = self._features(maps)
        halves = self.prepare_golden([each[pairs:] for each in features])
        if several:
            halves = tuple(each.reshape(-1, golden.shape[1], *each.shape[1:]) for each in halves)
        return self.compare([each[:pairs] for each in features], halves)

    @property
    def _one_size(self) -> bool:
        """Whether the network is tied to the picture size that it was made for."""
        return self.head_kind == "flatten" or self.num_golden > 1

    def _maps(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the encoder's levels, finest first."""
        if self._one_size and (picture.shape[-2], picture.shape[-1]) != self.image_size:
            raise ValueError(f"pictures must be {self.image_size} (height, width), got {tuple(picture.shape[-2:])}")
        maps: tuple[Tensor, ...] = self.backbone(picture.contiguous(memory_format=torch.channels_last))
        return maps

    def _maps_learning_from_first(self, test: Tensor, golden: Tensor) -> tuple[Tensor, ...]:
        """Return the levels of the tests, then of all goldens, pair by pair; the further goldens without gradient."""
        pairs, goldens = golden.shape[:2]
        learning = self._maps(torch.cat([test, golden[:, 0]]))
        if goldens == 1:
            return learning
        with torch.no_grad():
            further = self._maps(golden[:, 1:].flatten(0, 1))
        levels = []
        for known, rest in zip(learning, further, strict=True):
            grouped = rest.reshape(pairs, goldens - 1, *rest.shape[1:])
            together = torch.cat([known[pairs:].unsqueeze(1), grouped], dim=1)
            levels.append(torch.cat([known[:pairs], together.flatten(0, 1)]))
        return tuple(levels)

    def _features(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the comparison needs of the encoder's levels."""
        if self.pyramid is None:
            return (self.head(maps[-1]),)
        return self.pyramid.embed(maps)

    def score(self, output: Tensor) -> Tensor:
        """Return how defective each pair looks, float32 (B,): the distance (>= 0) or a probability (0-1)."""
        if self.pyramid is None:
            return output.float()
        probability = output.float().softmax(dim=1)
        return probability[:, 1:].sum(dim=1) if self.multiclass else probability[:, 1]

    def force_align_corners_off(self) -> bool:
        """Resize without aligned corners from now on, and say whether that is a change."""
        changed = self.pyramid is not None and self.pyramid.align_corners
        if self.pyramid is not None:
            self.pyramid.align_corners = False
        self._arguments["align_corners"] = False
        return changed

    def freeze_backbone(self) -> None:
        """Stop the encoder from learning: no gradients, and no moving statistics even in training mode."""
        self._frozen = True
        self.backbone.requires_grad_(False)
        for part in self.backbone.kept_trainable():
            part.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> ChangeNet:
        """Switch to training or evaluation mode; a frozen encoder stays in evaluation mode, but for what still learns."""
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
            for part in self.backbone.kept_trainable():
                if isinstance(part, nn.Module):
                    part.train(mode)
        return self


def distance(test: Tensor, golden: Tensor) -> Tensor:
    """Return the Euclidean distance (B,) between embeddings (B, K), in float32."""
    length: Tensor = torch.linalg.vector_norm(test.float() - golden.float() + DISTANCE_EPS, dim=1)
    return length
