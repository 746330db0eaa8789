"""Weights and activations of layers in 8 bits by NVIDIA ModelOpt: rounded numbers in PyTorch, QDQ graphs through ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from changenet.errors import CheckpointError
from changenet.model.merging import merged
from changenet.model.network import ChangeNet
from changenet.quantization.packages import import_package, quiet

BITS: dict[str, Any] = {"int8": 8, "fp8_e4m3fn": (4, 3)}
_AMAX = "._amax"
_INPUT, _WEIGHT = ".input_quantizer", ".weight_quantizer"


def quantizable(module: nn.Module) -> bool:
    """Say whether ModelOpt quantizes a layer: exactly these classes, of which subclasses compute something else."""
    return type(module) in (nn.Linear, nn.Conv2d)


def import_modelopt() -> ModuleType:
    """Return its quantization package (raises as `import_package`)."""
    return import_package("modelopt.torch.quantization", distribution="nvidia-modelopt")


def quantize_layers(
    network: nn.Module, layers: Mapping[str, str], run: Callable[[nn.Module], object], *, entropy: bool = False
) -> dict[str, str]:
    """Quantize layers in place, and return those that were: one that never runs sees no range.

    Args:
        network: Of floats, on the CPU.
        layers: Name of each layer to its number format, one of `BITS`.
        run: Shows the network what it will see.
        entropy: Ranges of activations that lose the least information, instead of their largest values.

    Raises:
        EngineError: ModelOpt is not installed.
    """
    package = import_modelopt()
    from modelopt.torch.quantization.model_calib import enable_stats_collection

    with quiet(), torch.no_grad():
        _insert(package, network, layers, entropy=entropy)
        enable_stats_collection(network)
        run(network)
        done = {}
        for name, dtype in layers.items():
            quantizers = _quantizers(network, name)
            ran = quantizers[0]._calibrator.compute_amax(*(["entropy"] if entropy else [])) is not None
            for quantizer, method in zip(quantizers, (["entropy"] if entropy else [], []), strict=True):
                quantizer.disable_calib()
                if ran:
                    quantizer.load_calib_amax(*method)
                    quantizer.enable_quant()
                else:
                    quantizer.disable()
            if ran:
                done[name] = dtype
    return done


def take_apart(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a quantized network: its own, and `NAME.input_quantizer._amax`, `NAME.weight_quantizer._amax`."""
    return dict(network.state_dict())


def floats_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the network of floats from what `take_apart` returned."""
    return {name: tensor for name, tensor in state.items() if not name.endswith((_INPUT + _AMAX, _WEIGHT + _AMAX))}


def ranges_of(layers: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest absolute value that each layer took, from what `take_apart` returned."""
    return {name: float(state[f"{name}{_INPUT}{_AMAX}"]) for name in layers}


def restore(network: ChangeNet, layers: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """Merge a fresh network and give it the weights and ranges that `take_apart` returned of a merged one, in place.

    Raises:
        CheckpointError: They do not fit the network.
        EngineError: ModelOpt is not installed.
    """
    fix = "Quantize the checkpoint again with the packages of this machine."
    merged(network, in_place=True)
    known = dict(network.named_modules())
    if unknown := sorted(
        name for name in layers if not quantizable(known.get(name, network)) or layers[name] not in BITS
    ):
        raise CheckpointError(f"quantizes layers that its network does not have: {', '.join(unknown)}", fix=fix)
    package = import_modelopt()
    with quiet():
        _insert(package, network, layers, entropy=False)
        modules = dict(network.named_modules())
        for name, tensor in state.items():
            if name.endswith(_AMAX) and (quantizer := modules.get(name.removesuffix(_AMAX))) is not None:
                quantizer.amax = tensor
        try:
            network.load_state_dict(dict(state))
        except RuntimeError as error:
            raise CheckpointError(f"its weights do not fit its own description: {error}", fix=fix) from error


def _insert(package: ModuleType, network: nn.Module, layers: Mapping[str, str], *, entropy: bool) -> None:
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for name, dtype in layers.items():
        calibrator = {"calibrator": "histogram"} if entropy else {}
        rules.append(
            {"quantizer_name": f"{name}{_INPUT}", "cfg": {"num_bits": BITS[dtype], "axis": None, **calibrator}}
        )
        rules.append({"quantizer_name": f"{name}{_WEIGHT}", "cfg": {"num_bits": BITS[dtype], "axis": 0}})
    package.quantize(network, {"quant_cfg": rules, "algorithm": None})


def _quantizers(network: nn.Module, layer: str) -> tuple[Any, Any]:
    module: Any = network.get_submodule(layer)
    return module.input_quantizer, module.weight_quantizer
