"""`changenet models`: which encoders there are, what they need, and which to choose. Loads timm only when it is asked for."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Sequence

from changenet.errors import SpecError
from changenet.model.catalogue import BACKBONE_KEY, TIMM_PREFIX, BackboneFacts, listing
from ray_jobs.console import out

TITLES = {
    "fan": "FAN-Hybrid, as in TAO",
    "vit": "Vision transformers, as in TAO; learnable networks see them through a ViT-Adapter",
    "convolutional": "Other convolutional networks",
    "timm": "All others of timm: `changenet models timm/PART` searches their names",
}
HEADINGS = ("name", "parameters", "side of a light; of the whole picture", "levels", "licence of the public weights")
ADVICE = """\
Which one:
- CPU, or the most pairs a second: timm/tf_efficientnet_lite0 with model.backbone.pretrained_backbone_path: bundled (its
  weights come as a package). Smaller pictures help more than a smaller encoder.
- A TAO checkpoint or TAO's numbers: the encoder that it was trained with; fan_small_12_p4_hybrid is TAO's default.
- GPU and few defects to learn from: c_radio_v2_vit_base_patch16_224 or vit_base_dinov3, with weights that you bring; the
  larger ones cost several times as much and seldom pay on small pictures.
- Without pretrained weights choose a small one: fan_tiny_8_p4_hybrid or a timm convolutional network.
Parameters are those of the encoder alone, learnable / euclidean where they differ. The side of a light is the one that a spec
without sizes gets; the whole picture holds all lights. Nothing is downloaded: weights are files that you bring, and their licence is yours to read."""


def run(pattern: str | None = None, *, json_output: bool = False) -> int:
    """Print the encoders, grouped by family, or those that match.

    Args:
        pattern: Part of a name, or a pattern with `*` and `?`; `timm/…` searches timm's names.
        json_output: Print JSON instead of tables.

    Raises:
        SpecError: No name matches.
    """
    if pattern is not None and pattern.startswith(TIMM_PREFIX):
        names = _timm_names(pattern.removeprefix(TIMM_PREFIX))
        out.print(json.dumps(names, indent=2) if json_output else "\n".join(names), soft_wrap=True)
        return 0
    chosen = [facts for facts in listing() if pattern is None or fnmatch.fnmatch(facts.name, _loosely(pattern))]
    if not chosen:
        raise _nothing(pattern)
    if json_output:
        out.print(json.dumps([_as_dict(facts) for facts in chosen], indent=2), soft_wrap=True)
        return 0
    for family, title in TITLES.items():
        group = [facts for facts in chosen if facts.family == family]
        if group:
            out.print("\n".join([f"{title}", *_lines(group), ""]), soft_wrap=True)
    if pattern is None:
        out.print(ADVICE, soft_wrap=True)
    return 0


def _timm_names(pattern: str) -> list[str]:
    from changenet.torchvision_compat import timm

    names = [f"{TIMM_PREFIX}{name}" for name in timm.list_models(_loosely(pattern))]
    if not names:
        raise _nothing(f"{TIMM_PREFIX}{pattern}")
    return names


def _loosely(pattern: str) -> str:
    return pattern if set(pattern) & set("*?[") else f"*{pattern}*"


def _nothing(pattern: str | None) -> SpecError:
    return SpecError(
        f"no encoder matches {pattern!r}", where=BACKBONE_KEY, fix="Run changenet models, without a pattern."
    )


def _lines(group: Sequence[BackboneFacts]) -> Iterator[str]:
    """Yield aligned lines: names stay whole, so that they can be copied."""
    cells = [HEADINGS, *(_cells(facts) for facts in group)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()


def _cells(facts: BackboneFacts) -> Sequence[str]:
    counts = [f"{count / 1e6:,.1f}" for count in (facts.parameters, facts.vector_parameters) if count]
    wide = facts.widths or ()
    widths = "/".join(map(str, wide[:1] if len(set(wide)) == 1 else wide))
    return (
        facts.name,
        f"{' / '.join(counts)} M" if counts else "",
        f"light {facts.default_side}; {facts.input_rule}",
        f"{widths} wide at {'/'.join(map(str, facts.strides or ()))}" if widths else "",
        facts.licence,
    )


def _as_dict(facts: BackboneFacts) -> dict[str, object]:
    return {
        "name": facts.name,
        "family": facts.family,
        "parameters": facts.parameters,
        "parameters_euclidean": facts.vector_parameters or facts.parameters,
        "side_multiple": facts.side_multiple,
        "side_multiple_euclidean": facts.multiple(learnable=False),
        "input_rule": facts.input_rule,
        "default_side": facts.default_side,
        "strides": facts.strides,
        "widths": facts.widths,
        "head": facts.head,
        "licence": facts.licence,
    }
