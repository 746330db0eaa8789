"""The names of DINOv2's and DINOv3's tensors, in Meta's own files and in Hugging Face's, turned into timm's."""

from __future__ import annotations

import re

import torch
from torch import Tensor

# Every rule that matches a name applies, from the top down.
_RULES = tuple(
    (re.compile(pattern), timms)
    for pattern, timms in (
        (r"^(?:dinov2|dinov2_with_registers|dinov3_vit)\.", ""),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
        (r"^(?:embeddings\.register_tokens|register_tokens|storage_tokens)$", "reg_token"),
        (r"^layernorm\.", "norm."),
        (r"^(?:encoder\.layer|model\.layer|layer)\.(\d+)\.", r"blocks.\1."),
        (r"^(blocks\.\d+)\.attention\.attention\.(query|key|value)\.", r"\1.attn.\2."),
        (r"^(blocks\.\d+)\.attention\.q_proj\.", r"\1.attn.query."),
        (r"^(blocks\.\d+)\.attention\.k_proj\.", r"\1.attn.key."),
        (r"^(blocks\.\d+)\.attention\.v_proj\.", r"\1.attn.value."),
        (r"^(blocks\.\d+)\.attention\.(?:output\.dense|o_proj)\.", r"\1.attn.proj."),
        (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
        (r"^(blocks\.\d+\.mlp)\.(?:weights_in|w12)\.", r"\1.fc1."),
        (r"^(blocks\.\d+\.mlp)\.(?:weights_out|w3|down_proj)\.", r"\1.fc2."),
        (r"^(blocks\.\d+\.mlp)\.(?:w1|gate_proj)\.", r"\1.fc1_g."),
        (r"^(blocks\.\d+\.mlp)\.w2\.", r"\1.fc1_x."),
    )
)
_QUERY_WEIGHT = re.compile(r"^(blocks\.\d+\.attn)\.query\.weight$")
_UP = re.compile(r"^(blocks\.\d+\.mlp)\.up_proj\.(weight|bias)$")


def timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a transformer's tensors under timm's names; names that are timm's already, or unknown, stay as they are.

    >>> list(timm_names({"encoder.layer.3.layer_scale2.lambda1": torch.ones(2)}))
    ['blocks.3.ls2.gamma']
    """
    named = {_timm_name(name): tensor for name, tensor in tensors.items()}
    for name in list(named):
        if found := _UP.match(name):
            gated = f"{found[1]}.fc1_g.{found[2]}" in named
            named[f"{found[1]}.{'fc1_x' if gated else 'fc1'}.{found[2]}"] = named.pop(name)
        elif found := _QUERY_WEIGHT.match(name):
            _join(named, found[1])
    return named


def _timm_name(name: str) -> str:
    for pattern, timms in _RULES:
        name = pattern.sub(timms, name)
    return name


def _join(named: dict[str, Tensor], attention: str) -> None:
    """Turn three layers, for query, key and value, into one; DINOv3's key has no bias."""
    layers = [f"{attention}.{part}" for part in ("query", "key", "value")]
    if not all(f"{layer}.weight" in named for layer in layers):
        return
    named[f"{attention}.qkv.weight"] = torch.cat([named.pop(f"{layer}.weight") for layer in layers])
    biases = [named.pop(f"{layer}.bias", None) for layer in layers]
    query, key, value = biases
    if query is not None and key is not None and value is not None:
        named[f"{attention}.qkv.bias"] = torch.cat([query, key, value])
    elif query is not None and value is not None:
        named[f"{attention}.q_bias"], named[f"{attention}.v_bias"] = query, value
