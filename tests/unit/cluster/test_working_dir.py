"""What `ray job submit --working-dir .` uploads, by Ray's own packer."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[3]


def packed(folder: Path, tmp_path: Path) -> set[str]:
    target = tmp_path / "package.zip"
    create_package(str(folder), target, include_gitignore=True, excludes=[])
    with zipfile.ZipFile(target) as archive:
        return set(archive.namelist())


def test_code_and_specs_travel_and_nothing_else(tmp_path: Path) -> None:
    project = tmp_path / "project"
    travels = [
        "changenet/data/images.py",
        "ray_jobs/__main__.py",
        "serve/page/index.html",
        "specs/mine.yaml",
        "spec.yaml",
    ]
    stays = [
        ".venv/bin/python", ".git/config", ".env", ".keys.yaml", "data/board/C12.png", "boards/images/C12.png", "results/train/a.pth",
        "quickstart/spec.yaml", "token.txt", "changenet/__pycache__/a.pyc", "specs/model.onnx", "tests/test_x.py",
    ]  # fmt: skip
    for name in travels + stays:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x", encoding="utf-8")
    for name in (".rayignore", ".gitignore"):
        shutil.copy(ROOT / name, project / name)
    files = {name for name in packed(project, tmp_path) if not name.endswith("/")}
    assert files == set(travels)


def test_this_project_packs_into_little(tmp_path: Path) -> None:
    names = packed(ROOT, tmp_path)
    assert {name.split("/")[0] for name in names if "/" in name} == {"changenet", "ray_jobs", "serve", "specs"}
    assert {"ray_jobs/__main__.py", "changenet/data/images.py", "serve/app.py"} <= names
    assert (tmp_path / "package.zip").stat().st_size < 5 << 20
