from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def parity() -> ModuleType:
    """The recorded cases: `parity.load_cases()`, `weights`, `inputs`, `expected`, `samples`."""
    path = Path(__file__).with_name("parity.py")
    spec = importlib.util.spec_from_file_location("changenet_parity_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
