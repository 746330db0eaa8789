from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from changenet.errors import SpecError
from changenet.spec import LoadedSpec, load_spec

Load = Callable[..., LoadedSpec]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a spec from YAML text and overrides."""

    def load(text: str = "task: classify", *overrides: str, **options: bool) -> LoadedSpec:
        file = tmp_path / "spec.yaml"
        file.write_text(text, encoding="utf-8")
        return load_spec(file, overrides, **options)

    return load


@pytest.fixture
def problems(load: Load) -> Callable[..., list[str]]:
    """Load a spec that is wrong and return the lines of the error."""

    def problems(text: str = "task: classify", *overrides: str, **options: bool) -> list[str]:
        with pytest.raises(SpecError) as caught:
            load(text, *overrides, **options)
        return str(caught.value).splitlines()

    return problems
