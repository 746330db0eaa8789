"""Weights of linear layers in 8 bits by torchao; activations stay floats, so nothing has to be calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from torch import Tensor, nn

from changenet.errors import CheckpointError, EngineError
from changenet.quantization.packages import import_package, quiet

CONFIGS = {"int8": "Int8WeightOnlyConfig", "fp8_e4m3fn": "Float8WeightOnlyConfig"}


def import_torchao() -> ModuleType:
    """Return its quantization package (raises as `import_package`)."""
    return import_package("torchao.quantization", distribution="torchao")


def quantizable(module: nn.Module) -> bool:
    """Say whether torchao quantizes a layer: it leaves convolutions alone, and subclasses compute something else."""
    return type(module) is nn.Linear


def quantize_weights(network: nn.Module, layers: Mapping[str, str]) -> None:
    """Quantize the weights of layers in place, a scale a row.

    Args:
        network: Of floats.
        layers: Name of each layer to its number format, one of `CONFIGS`.

    Raises:
        EngineError: torchao is not installed, or cannot do this format here.
    """
    package = import_torchao()
    for dtype in sorted(set(layers.values())):
        chosen = {name for name, each in layers.items() if each == dtype}
        try:
            with quiet():
                package.quantize_(
                    network, getattr(package, CONFIGS[dtype])(), filter_fn=lambda _, name, of=chosen: name in of
                )
        except (RuntimeError, NotImplementedError) as error:
            what = f"torchao cannot make weights {dtype} here: {str(error).splitlines()[0]}"
            raise EngineError(what, fix="Use int8 in quantize.layers.") from error


def take_apart(network: nn.Module, layers: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the state of a quantized network as plain tensors, `NAME.weight.qdata` and so on."""
    state = {}
    weights = {f"{name}.weight" for name in layers}
    for name, tensor in network.state_dict().items():
        if name not in weights:
            state[name] = tensor
            continue
        parts, _ = tensor.__tensor_flatten__()
        state |= {f"{name}.{part}": getattr(tensor, part) for part in parts}
    return state


def restore(network: nn.Module, layers: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """Give a fresh network the quantized weights that `take_apart` returned, in place.

    Raises:
        CheckpointError: The tensors do not fit the network or torchao's own layout of today.
        EngineError: As `quantize_weights`.
    """
    fix = "Quantize the checkpoint again with the packages of this machine."
    known = dict(network.named_modules())
    if unknown := sorted(
        name for name in layers if not quantizable(known.get(name, network)) or layers[name] not in CONFIGS
    ):
        raise CheckpointError(f"quantizes layers that its network does not have: {', '.join(unknown)}", fix=fix)
    quantize_weights(network, layers)
    plain, used = dict(state), {}
    for name in layers:
        weight = known[name].weight
        parts, context = weight.__tensor_flatten__()
        inner = {part: plain.pop(f"{name}.weight.{part}", None) for part in parts}
        for part, tensor in inner.items():
            fresh = getattr(weight, part)
            if tensor is None or tensor.shape != fresh.shape or tensor.dtype != fresh.dtype:
                raise CheckpointError(f"{name}.weight.{part} does not fit its own description", fix=fix)
        used[f"{name}.weight"] = type(weight.data).__tensor_unflatten__(inner, context, weight.size(), weight.stride())
    try:
        network.load_state_dict({**plain, **used}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"its weights do not fit its own description: {error}", fix=fix) from error
