"""Visual ChangeNet: compare a picture of a component with its golden picture and decide PASS or FAIL.

This package is the core: it knows neither Ray nor HTTP. Heavy packages load when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from changenet.inspection import Inspector

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str, engine: str = "auto", *, encryption_key: str | None = None) -> Inspector:
    """Return an `Inspector` for a checkpoint file or a bundle directory.

    Args:
        path: A checkpoint (`.pth`) or a bundle directory.
        engine: `auto`, `torch` or `onnxruntime`.
        encryption_key: The passphrase of an encrypted checkpoint or bundle.

    Raises:
        CheckpointError: The file is missing, damaged, encrypted with another key, of a newer format, or a TAO checkpoint,
            which does not say how its network is built: `changenet convert` makes it one of ours.
        EngineError: The engine cannot run on this machine.
    """
    from changenet.inspection import Inspector

    return Inspector.load(path, engine=engine, encryption_key=encryption_key)
