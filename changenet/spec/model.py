"""`model`: the encoder, the difference module and the classifier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from changenet.spec.section import Integer, Number, Positive, Section

DifferenceModule = Literal["learnable", "euclidean"]
Head = Literal["flatten", "pool"]
GoldenGradients = Literal["first", "all"]


class Backbone(Section):
    """`model.backbone`: the encoder that both pictures go through."""

    type: str = Field(
        default="fan_small_12_p4_hybrid",
        description="A FAN or ViT encoder (docs/networks.md lists them), or timm/NAME for any timm model with feature maps.",
    )
    pretrained_backbone_path: str | None = Field(
        default=None,
        description="Weights of the encoder: a local file, or 'bundled' for those of an installed package.",
    )
    freeze_backbone: bool = Field(
        default=False,
        description="Do not train the encoder; needs pretrained_backbone_path or train.pretrained_model_path.",
    )
    feat_downsample: bool = Field(default=False, description="FAN only: the last level at stride 32, 768 wide.")


class DecoderParams(Section):
    """`model.decode_head.decoder_params`."""

    embed_dim: Positive = Field(default=256, description="Channels of every level after its projection.")


class DecodeHead(Section):
    """`model.decode_head`: the pyramid and what is made of it."""

    align_corners: bool = Field(default=False, description="Align the corners when levels are resized.")
    use_summary_token: bool = Field(default=True, description="ViT only: fuse the summary tokens into the pyramid.")
    feature_strides: tuple[Positive, ...] | None = Field(
        default=None, description="Strides of the four levels; must be the encoder's. Unset: the encoder's."
    )
    decoder_params: DecoderParams = DecoderParams()
    in_channels: tuple[Positive, ...] | None = Field(
        default=None, description="Widths of the levels; the encoder's are used."
    )
    in_index: tuple[Annotated[Integer, Field(ge=0)], ...] | None = Field(
        default=None, description="Levels in use; learnable_difference_modules decides."
    )


class ClassifyModel(Section):
    """`model.classify`: how the two pictures are compared."""

    train_margin_euclid: Annotated[Number, Field(ge=1)] = Field(
        default=2.0, description="Margin of the contrastive loss."
    )
    eval_margin: Annotated[Number, Field(ge=0)] | None = Field(
        default=None,
        description="Decision threshold. Unset: fitted on validation; where there is none, 0.5 (learnable) or half of "
        "train_margin_euclid (euclidean).",
    )
    embedding_vectors: Positive = Field(default=5, description="Euclidean: length of the embedding.")
    embed_dec: Positive = Field(default=30, description="Learnable: hidden width of the classifier.")
    difference_module: DifferenceModule = Field(
        default="learnable",
        description="Compare by learned differences of the levels, or by the distance of two embeddings.",
    )
    learnable_difference_modules: Annotated[Integer, Field(ge=1, le=4)] = Field(
        default=4, description="Learnable: levels that are compared, from the deepest."
    )
    head: Head | None = Field(
        default=None,
        description="flatten = TAO's, one input size; pool = maximum and mean over the map, any input size. Unset: pool for "
        "timm/ encoders, else flatten.",
    )
    golden_gradients: GoldenGradients = Field(
        default="first",
        description="With several goldens, the encoder learns from the first one drawn for each pair, as in TAO, or from all "
        "(more memory and time).",
    )


class Model(Section):
    """`model`: the network."""

    backbone: Backbone = Backbone()
    decode_head: DecodeHead = DecodeHead()
    classify: ClassifyModel = ClassifyModel()
    precise_msda: bool = Field(default=False, description="ViT only: deterministic deformable attention.")
