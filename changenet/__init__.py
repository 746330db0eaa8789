"""Visual ChangeNet: compare a picture of a component with its golden picture and decide PASS or FAIL.

This package is the core: it knows neither Ray nor HTTP. Heavy packages load when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from changenet.inspection import Inspector
    from changenet.signing import KeySource

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    path: str,
    engine: str = "auto",
    *,
    device: str | None = None,
    encryption_key: str | None = None,
    trusted_keys: Sequence[KeySource] = (),
) -> Inspector:
    """Return an `Inspector` for a checkpoint file, a bundle directory or a TensorRT engine file.

    Args:
        path: A checkpoint (`.pth`), a bundle directory, or an engine that `changenet gen_trt_engine` wrote.
        engine: `auto`, `torch`, `onnxruntime` or `tensorrt`.
        device: `cpu`, `cuda` or `cuda:N`, as for `changenet.engines.load_engine`. None: the CPU, but the first GPU for TensorRT,
            which `auto` takes where the bundle has an engine for it.
        encryption_key: The passphrase of an encrypted checkpoint or bundle.
        trusted_keys: Public keys, as files or PEM text: the path must be a bundle that one of them signed. Without any
            a signature is not looked at.

    Raises:
        CheckpointError: The file is missing, damaged, encrypted with another key, of a newer format, or a TAO checkpoint,
            which does not say how its network is built: `changenet convert` makes it one of ours. With `trusted_keys`:
            not signed with one of them, or changed since.
        EngineError: The engine cannot run on this machine.
    """
    from changenet.inspection import Inspector

    return Inspector.load(path, engine=engine, device=device, encryption_key=encryption_key, trusted_keys=trusted_keys)
