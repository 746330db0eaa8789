"""The packages that quantize: brought by an extra, and noisy."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch

from changenet.errors import EngineError

_LOGGERS = ("modelopt", "torchao", "torch.utils._pytree")


def import_package(module: str, *, distribution: str) -> ModuleType:
    """Return a module of a package that the extra `quantize` brings.

    Raises:
        EngineError: It is not installed.
    """
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        what = f"the package {distribution} is not installed"
        raise EngineError(what, fix="Install the extra: pip install 'changenet-ray[quantize]'.") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep notes on kernels of other machines and on further packages, and what is printed, from the user."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
