"""The names of a ViT-Adapter's own tensors in TAO's files, turned into ours."""

from __future__ import annotations

import re

from torch import Tensor

_SUFFIX = r"(?P<rest>(?:weight|bias|running_mean|running_var|num_batches_tracked))$"
_ATTENTION = {
    "sampling_offsets": "offsets",
    "attention_weights": "weights",
    "value_proj": "value",
    "output_proj": "output",
}
_EXTRACTOR = {
    "query_norm": "query_norm",
    "feat_norm": "value_norm",
    "ffn_norm": "forward_norm",
    "ffn.fc1": "feed_forward.reduce",
    "ffn.dwconv.dwconv": "feed_forward.depthwise",
    "ffn.fc2": "feed_forward.expand",
    **{f"attn.{theirs}": f"attention.{ours}" for theirs, ours in _ATTENTION.items()},
}
_OWN = re.compile(r"^(level_code$|prior\.|interactions\.|up\.|summary\.|fusions\.|norms\.)")
_STEM = re.compile(r"^spm\.(stem\.\d+)\." + _SUFFIX)
_REDUCE = re.compile(r"^spm\.conv([234])\.(\d)\." + _SUFFIX)
_PROJECT = re.compile(r"^spm\.fc([1234])\." + _SUFFIX)
_NORM = re.compile(r"^norm([1234])\." + _SUFFIX)
_FUSION = re.compile(r"^conv([1234])\." + _SUFFIX)
_INTERACTION = re.compile(
    r"^interactions\.(?P<step>\d+)\.(?P<part>injector|extractor|extra_extractors\.(?P<extra>\d+))\."
    r"(?P<module>" + "|".join(re.escape(name) for name in _EXTRACTOR) + r")\." + _SUFFIX
)
_SCALE = re.compile(r"^interactions\.(\d+)\.injector\.ls\.gamma$")


def adapter_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the adapter's own tensors under our names, and all other tensors as they came.

    >>> import torch
    >>> own, rest = adapter_names({"norm1.bias": torch.zeros(2), "norm.bias": torch.zeros(2)})
    >>> list(own), list(rest)
    (['norms.0.bias'], ['norm.bias'])
    """
    own: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (found := _FUSION.match(name)) and not (found["rest"] == "weight" and tensor.ndim != 4):
            level = f"fusions.{int(found[1]) - 1}"
            if found["rest"] == "weight":  # (D, 2 D, 1, 1): channels of the summary come first
                summary, values = tensor.chunk(2, dim=1)
                own[f"{level}.of_summary.weight"], own[f"{level}.of_map.weight"] = summary, values
            else:
                own[f"{level}.of_summary.{found['rest']}"] = tensor
        elif ours := _our_name(name):
            own[ours] = tensor
        else:
            rest[name] = tensor
    return own, rest


def _our_name(name: str) -> str | None:
    if found := _INTERACTION.match(name):
        part = "injector"
        if found["part"] != "injector":
            part = f"extractors.{0 if found['extra'] is None else 1 + int(found['extra'])}"
        return f"interactions.{found['step']}.{part}.{_EXTRACTOR[found['module']]}.{found['rest']}"
    if found := _SCALE.match(name):
        return f"interactions.{found[1]}.injector.scale"
    if found := _STEM.match(name):
        return f"prior.{found[1]}.{found['rest']}"
    if found := _REDUCE.match(name):
        return f"prior.reduce.{int(found[1]) - 2}.{found[2]}.{found['rest']}"
    if found := _PROJECT.match(name):
        return f"prior.project.{int(found[1]) - 1}.{found['rest']}"
    if found := _NORM.match(name):
        return f"norms.{int(found[1]) - 1}.{found['rest']}"
    if name.startswith("fc_summary."):
        return name.replace("fc_summary.", "summary.")
    if name == "level_embed":
        return "level_code"
    return name if _OWN.match(name) else None
