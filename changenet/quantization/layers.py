"""Which layers of a network are quantized: rules by name or by class, of which later ones win."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from changenet.errors import SpecError
from changenet.model.network import ChangeNet

logger = logging.getLogger(__name__)

NATIVE = "native"
_SHOWN = 8  # candidates of a class in a message


@dataclass(frozen=True)
class Rule:
    """What happens to the layers that a pattern matches.

    Args:
        pattern: Shell-style wildcards, case-sensitive, for the name of a module or else for its class.
        dtype: `int8`, `fp8_e4m3fn`, or `native` = as it is.
    """

    pattern: str
    dtype: str


def candidates(network: nn.Module, accepts: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    """Return the layers that a backend accepts, by name."""
    return {name: module for name, module in network.named_modules() if accepts(module)}


def static_candidates(network: ChangeNet, accepts: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    """Return the layers that a backend accepts and whose inputs may be rounded like their weights, by name.

    Layers of the head that a norm feeds stay in floats. A unit that was 0 all through training makes its norm multiply
    by 316 (1 / sqrt(eps)), in the inputs of the layer or, once merged, in its weights: one scale for all of them leaves
    the other units no steps. These layers are small: the first one of the head takes the map, they take its hidden units.
    """
    behind_norms = {layer for layer in list(network.head.layers)[1:] if isinstance(layer, nn.Linear)}
    return {name: module for name, module in candidates(network, accepts).items() if module not in behind_norms}


def choose_layers(
    layers: dict[str, nn.Module], *, rules: Sequence[Rule], skip: Sequence[str], backend: str
) -> dict[str, str]:
    """Return the number format of every layer that is quantized, by name.

    Args:
        layers: The layers that the backend can quantize (`candidates`, `static_candidates`).
        rules: Later ones win.
        skip: Patterns of layers that stay as they are, whatever the rules say.
        backend: For messages.

    Raises:
        SpecError: No layer is left; the message lists the candidates.

    >>> choose_layers({"head": nn.Linear(1, 1)}, rules=[Rule("Linear", "int8")], skip=[], backend="torchao")
    {'head': 'int8'}
    """
    for pattern in dict.fromkeys(rule.pattern for rule in rules):
        if not any(_matches(pattern, name, module) for name, module in layers.items()):
            logger.warning("quantize.layers: %r matches no layer that %s can quantize.", pattern, backend)
    for pattern in skip:
        if not any(_matches(pattern, name, module) for name, module in layers.items()):
            logger.info("quantize.skip_names: %r takes nothing out that %s can quantize.", pattern, backend)
    chosen = {}
    for name, module in layers.items():
        said = [rule.dtype for rule in rules if _matches(rule.pattern, name, module)]
        if said and said[-1] != NATIVE and not any(_matches(pattern, name, module) for pattern in skip):
            chosen[name] = said[-1]
    if not chosen:
        raise SpecError(
            f"no rule leaves a layer to quantize; {backend} can quantize {_listed(layers)}",
            where="quantize.layers",
            fix="Write a rule such as {module_name: 'Linear', weights: {dtype: int8}}"
            + (f"; skip_names takes out {', '.join(skip)}." if skip else "."),
        )
    return chosen


def _matches(pattern: str, name: str, module: nn.Module) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(type(module).__name__, pattern)


def _listed(layers: dict[str, nn.Module]) -> str:
    parts = []
    for kind, count in Counter(type(module).__name__ for module in layers.values()).items():
        names = [name for name, module in layers.items() if type(module).__name__ == kind]
        more = f", … ({count} in all)" if count > _SHOWN else ""
        parts.append(f"{kind}: {', '.join(names[:_SHOWN])}{more}")
    return "; ".join(parts) or "no layer of this network"
