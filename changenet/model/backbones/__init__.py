"""The encoders, one family a module; each family registers its names with a decorator."""

from changenet.model.backbones import fan, timm_encoder
from changenet.model.backbones.registry import Backbone, build_backbone, default_normalisation

__all__ = ["Backbone", "build_backbone", "default_normalisation", "fan", "timm_encoder"]
