"""The encoders, one family a module; each family registers its names with a decorator."""

from changenet.model.backbones.registry import Backbone, Request, build_backbone, default_normalisation

__all__ = ["Backbone", "Request", "build_backbone", "default_normalisation"]
