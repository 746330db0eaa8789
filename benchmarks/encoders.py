"""What each encoder costs: parameters, multiply-accumulates, and pairs/s beside FAN-tiny in the same process.

    .venv/bin/python benchmarks/encoders.py [--size 224] [--device cpu] [--seconds 6] [NAME ...]

Networks are untrained, learnable, with 256 channels and the pooled head. Multiply-accumulates are those of convolutions,
linear layers and attention, for one pair. A kept golden is one that was encoded before: production compares one golden
with thousands of test pictures. Speed is that of evaluation, the better of two visits, each right after FAN-tiny's.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from changenet.model.network import ChangeNet

BASELINE = "fan_tiny_8_p4_hybrid"
NAMES = (
    BASELINE,
    "fan_small_12_p4_hybrid",
    "fan_base_16_p4_hybrid",
    "fan_large_16_p4_hybrid",
    "timm/tf_efficientnet_lite0",
    "timm/efficientnet_b0",
    "timm/mobilenetv3_large_100",
    "timm/convnext_atto",
    "timm/convnext_tiny",
    "timm/swin_tiny_patch4_window7_224",
    "timm/vit_small_patch16_224",
    "vit_small_dinov3",
    "vit_base_dinov3",
    "c_radio_v2_vit_base_patch16_224",
)
PRECISIONS = (torch.float32, torch.bfloat16)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--size", type=int, default=224, help="side of the picture")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=6, help="a visit takes about so long")
    chosen = parser.parse_args()
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else f"{os.cpu_count()} cores, {platform.machine()}"
    print(f"Machine: {name}; torch {torch.__version__}; {chosen.size} px, batch {chosen.batch}\n")
    print("| encoder | parameters | multiply-accumulates a pair | with a kept golden | speed, fp32 | speed, bf16 |")
    print("|---|---|---|---|---|---|")
    baseline = build(BASELINE, chosen)
    for name in chosen.names:
        network = build(name, chosen)
        parameters = sum(parameter.numel() for parameter in network.backbone.parameters())
        whole, kept = (operations(work) for work in works(network, chosen))
        ratios = [ratio(network, baseline, chosen, precision) for precision in PRECISIONS]
        cells = (
            f"{parameters / 1e6:.1f} M",
            f"{whole / 1e9:.1f} G",
            f"{kept / 1e9:.1f} G",
            *(f"{each:.2f}" for each in ratios),
        )
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


def build(name: str, chosen: argparse.Namespace) -> ChangeNet:
    """Return an untrained network that is ready to evaluate."""
    torch.manual_seed(0)
    return ChangeNet(backbone=name, image_size=(chosen.size, chosen.size), head="pool").eval().to(chosen.device)


def works(network: ChangeNet, chosen: argparse.Namespace) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the work for one pair, and for one test picture whose golden is kept."""
    test, golden = torch.randn(2, 1, 3, chosen.size, chosen.size, device=chosen.device)
    with torch.inference_mode():
        halves = network.prepare_golden(network.encode(golden))
    return lambda: network(test, golden), lambda: network.compare(network.encode(test), halves)


def operations(work: Callable[[], object]) -> int:
    """Return the multiply-accumulates of some work."""
    # Attention as two products of matrices: the counter does not know every fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() // 2


def ratio(network: ChangeNet, baseline: ChangeNet, chosen: argparse.Namespace, precision: torch.dtype) -> float:
    """Return pairs/s over the baseline's, the better of two visits."""
    found = []
    for _ in range(2):
        reference = pairs_per_second(baseline, chosen, precision)
        found.append(pairs_per_second(network, chosen, precision) / reference)
    return max(found)


@torch.inference_mode()
def pairs_per_second(network: ChangeNet, chosen: argparse.Namespace, precision: torch.dtype) -> float:
    """Return the speed of the fastest call in a visit."""
    test, golden = torch.randn(2, chosen.batch, 3, chosen.size, chosen.size, device=chosen.device)
    calls = []
    until = time.perf_counter() + chosen.seconds / 2
    while len(calls) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        with torch.autocast(chosen.device, dtype=precision, enabled=precision != torch.float32):
            network(test, golden)
        if chosen.device == "cuda":
            torch.cuda.synchronize()
        calls.append(time.perf_counter() - began)
    return chosen.batch / min(calls[1:])


if __name__ == "__main__":
    main()
