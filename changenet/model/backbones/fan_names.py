"""The names of FAN's tensors in TAO's files, turned into ours."""

from __future__ import annotations

import re

import torch
from torch import Tensor

# Every rule that matches a name applies, from the top down.
_RULES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^cls_token$", "class_token"),
        (r"^cls_attn_blocks\.", "class_blocks."),
        (r"^patch_embed\.backbone\.", ""),
        (r"^patch_embed\.proj\.", "tokenise."),
        (r"^pos_embed\.token_projection\.", "position.project."),
        (r"^(blocks\.\d+)\.gamma1$", r"\1.token_scale"),
        (r"^(blocks\.\d+)\.gamma2$", r"\1.channel_scale"),
        (r"^(blocks\.\d+)\.norm1\.", r"\1.token_norm."),
        (r"^(blocks\.\d+)\.norm2\.", r"\1.channel_norm."),
        (r"^(blocks\.\d+)\.attn\.", r"\1.token_mix."),
        (r"^(blocks\.\d+)\.mlp\.temperature$", r"\1.channel_mix.temperature"),
        (r"^(blocks\.\d+)\.mlp\.q\.", r"\1.channel_mix.query."),
        (r"^(blocks\.\d+)\.mlp\.norm_v\.", r"\1.channel_mix.value_norm."),
        (r"^(blocks\.\d+)\.mlp\.mlp_v\.", r"\1.channel_mix.mlp."),
        (r"\.channel_mix\.mlp\.gamma$", ".channel_mix.mlp.scale"),
        (r"\.channel_mix\.mlp\.fc1\.", ".channel_mix.mlp.expand."),
        (r"\.channel_mix\.mlp\.fc2\.", ".channel_mix.mlp.reduce."),
        (r"\.channel_mix\.mlp\.dwconv\.conv1\.", ".channel_mix.mlp.depthwise.0."),
        (r"\.channel_mix\.mlp\.dwconv\.bn\.", ".channel_mix.mlp.depthwise.2."),
        (r"\.channel_mix\.mlp\.dwconv\.conv2\.", ".channel_mix.mlp.depthwise.3."),
        (r"^(class_blocks\.\d+)\.gamma1$", r"\1.token_scale"),
        (r"^(class_blocks\.\d+)\.gamma2$", r"\1.class_scale"),
        (r"^(class_blocks\.\d+)\.norm1\.", r"\1.token_norm."),
        (r"^(class_blocks\.\d+)\.norm2\.", r"\1.output_norm."),
        (r"^(class_blocks\.\d+)\.attn\.", r"\1.class_attention."),
        (r"^(class_blocks\.\d+)\.mlp\.", r"\1.class_mlp."),
        (r"\.(token_mix|class_attention)\.proj\.", r".\1.project."),
        (r"\.(token_mix|class_attention)\.q\.", r".\1.query."),
        (r"\.token_mix\.kv\.", ".token_mix.key_value."),
    )
)
_KEY = re.compile(r"^(class_blocks\.\d+\.class_attention)\.k\.(weight|bias)$")


def fan_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return an encoder's tensors under our names; names that are ours already, or unknown, stay as they are.

    >>> list(fan_names({"blocks.0.attn.q.bias": torch.zeros(2)}))
    ['blocks.0.token_mix.query.bias']
    """
    named = {_our_name(name): tensor for name, tensor in tensors.items()}
    for name in list(named):
        found = _KEY.match(name)
        if found and (value := f"{found[1]}.v.{found[2]}") in named:  # two layers there, one here
            named[f"{found[1]}.key_value.{found[2]}"] = torch.cat([named.pop(name), named.pop(value)])
    return named


def _our_name(name: str) -> str:
    for pattern, ours in _RULES:
        name = pattern.sub(ours, name)
    return name
