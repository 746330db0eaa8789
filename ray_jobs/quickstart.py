"""`changenet quickstart`: the whole road on generated boards, from pictures to HTTP answers, checked on the way."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from changenet import storage
from changenet.errors import DataError, RunError
from ray_jobs.console import err, out, result_table
from ray_jobs.metrics_csv import read_epochs

logger = logging.getLogger(__name__)

PAIRS = 2000
SIZE = 64  # pixels
REQUESTS = 20
TOLERANCE = 1e-4  # of |score difference| / max(1, |score|): PyTorch wrote inference.csv, ONNX Runtime serves
MARKER = ".changenet-quickstart"  # says that what is in the folder is ours


def run(folder: str, *, seed: int = 0) -> int:
    """Generate boards, check, train, evaluate, infer, export, quantize, serve; print a table and where everything lies.

    What an earlier quickstart left in the folder is set aside, so that the same seed gives the same result.

    Raises:
        DataError: The folder holds something else.
        RunError: A step failed, or the service's scores are not those of `inference.csv`.
    """
    from ray_jobs import check, cluster, evaluate, export, inference, quantize, sample, train

    home = _fresh(Path(folder))
    spec, results = str(home / "data" / "spec.yaml"), home / "results"
    overrides = [f"results_dir={results}"]
    in_int8 = [
        f"quantize.model_path={results}/train/model_best.pth",
        "quantize.backend=onnxruntime",
        "quantize.layers=[{module_name: '*', weights: {dtype: int8}, activations: {dtype: int8}}]",
    ]
    steps: list[tuple[str, Callable[[], int | None], Callable[[], str]]] = [
        (
            "sample",
            lambda: sample.run(str(home / "data"), pairs=PAIRS, lights=1, goldens=1, size=SIZE, seed=seed),
            lambda: f"{PAIRS} generated pairs, {SIZE} px",
        ),
        ("check", lambda: check.run(spec, overrides), lambda: "every row and picture is sound"),
        ("train", lambda: train.run(spec, overrides), lambda: _trained(results)),
        ("evaluate", lambda: evaluate.run(spec, overrides), lambda: _evaluated(results)),
        ("inference", lambda: inference.run(spec, overrides), lambda: _inferred(results)),
        ("export", lambda: export.run(spec, overrides), lambda: _exported(results)),
        ("quantize", lambda: quantize.run(spec, [*overrides, *in_int8]), lambda: _quantized(results)),
        ("serve", lambda: None, lambda: _served(home, results)),
    ]
    rows = []
    began = time.perf_counter()
    try:
        cluster.connect("local")  # whatever RAY_ADDRESS says: this Ray is stopped at the end
        for name, work, result in steps:
            err.rule(name)
            started = time.perf_counter()
            out.quiet = True  # the table at the end says it all
            try:
                code = work()
                told = result()
            finally:
                out.quiet = False
            if code:
                raise RunError(f"the step {name!r} failed", where=folder, fix="The lines above say why.")
            rows.append((name, told, f"{time.perf_counter() - started:.0f}"))
    finally:
        _stop_ray()
    rows.append(("all", "", f"{time.perf_counter() - began:.0f}"))
    out.print(result_table("Quickstart", ("step", "result", "seconds"), rows))
    for what, path in (
        ("pictures and spec", home / "data"),
        ("report", results / "evaluate" / "report.html"),
        ("decisions", results / "inference" / "inference.csv"),
        ("bundle", results / "export" / "bundle"),
        ("float and int8", results / "quantize" / "comparison.json"),
    ):
        out.print(f"{what:18}{path}", soft_wrap=True)
    out.print(f"Serve it:         changenet serve --model boards={results}/export/bundle", soft_wrap=True)
    out.print(f"Ask it again:     changenet evaluate -e {spec} results_dir={results}", soft_wrap=True)
    again = f"results_dir={home / 'again'} train.num_epochs=8"
    out.print(f"Try other ways:   changenet train -e {spec} {again}", soft_wrap=True)
    return 0


def _fresh(home: Path) -> Path:
    marker = home / MARKER
    if home.exists() and any(home.iterdir()):
        if not marker.exists():
            raise DataError("not empty", where=str(home), fix="Give a new or empty folder with --out.")
        if aside := storage.set_aside(home):
            logger.info("What was in %s is in %s now.", home, aside)
    home.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return home.resolve()


def _trained(results: Path) -> str:
    epochs = read_epochs(str(results / "train"))
    best = max(figures["val_auroc"] for figures in epochs if "val_auroc" in figures)
    return f"{len(epochs)} epochs on a local Ray, best validation AUROC {best:.4f}"


def _evaluated(results: Path) -> str:
    figures = json.loads((results / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    return (
        f"test set: AUROC {figures['auroc']:.4f}, recall {figures['recall']:.3f}, false calls {figures['false_call_rate']:.3f} "
        f"at threshold {figures['threshold']:.3f}"
    )


def _inferred(results: Path) -> str:
    decisions = [row["prediction"] for row in _decisions(results)]
    return f"inference set: {len(decisions)} rows, {decisions.count('PASS')} PASS, {decisions.count('FAIL')} FAIL"


def _exported(results: Path) -> str:
    manifest = json.loads((results / "export" / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    error = max(engine["parity"]["max_error"] for engine in manifest["engines"])
    return f"ONNX agrees with PyTorch to {error:.0e}"


def _quantized(results: Path) -> str:
    from changenet.evaluation.report.wording import amount

    figures = json.loads((results / "quantize" / "comparison.json").read_text(encoding="utf-8"))
    floats, integers = figures["engines"][-2:]
    before, after = (amount(each["pairs_per_second"], digits=0) for each in (floats, integers))
    return (
        f"int8 decides {figures['agreement']:.1%} of {figures['pairs']} pairs alike; {floats['size_mb']:.1f} -> "
        f"{integers['size_mb']:.1f} MB, {before} -> {after} pairs/s"
    )


def _served(home: Path, results: Path) -> str:
    """Start the service, send real requests, and hold the answers against `inference.csv`."""
    import requests

    from ray_jobs import serve
    from ray_jobs.listening import free_port
    from serve.settings import ModelSettings, ServiceSettings

    pictures = home / "data" / "images"
    settings = ServiceSettings(models=(ModelSettings(name="boards", bundle=str(results / "export" / "bundle")),))
    rows = _decisions(results)[:REQUESTS]
    worst = 0.0
    # Nothing comes after it: Ray ends with the service.
    with replace(serve.start(settings, port=free_port()), owns_ray=True) as service:
        for row in rows:
            files = {
                part: next((pictures / row[column]).glob(f"{row['object_name']}.*")).read_bytes()
                for part, column in (("test", "input_path"), ("golden", "golden_path"))
            }
            answer = requests.post(
                f"{service.url}/v1/models/boards/inspect",
                files={part: (part, content) for part, content in files.items()},
                timeout=60,
            )
            answer.raise_for_status()
            verdict, expected = answer.json(), float(row["siamese_score"])
            worst = max(worst, abs(verdict["score"] - expected) / max(1.0, abs(expected)))
            clear = abs(expected - verdict["threshold"]) > TOLERANCE
            if clear and verdict["prediction"] != row["prediction"]:
                raise RunError(f"the service calls {row['object_name']} {verdict['prediction']}", where=service.url)
    if worst > TOLERANCE:
        raise RunError(f"its scores differ from inference.csv by {worst:.1e}", where="serve")
    return f"{len(rows)} HTTP answers, scores of inference.csv to {worst:.0e}"


def _decisions(results: Path) -> list[dict[str, str]]:
    with (results / "inference" / "inference.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _stop_ray() -> None:
    import ray

    ray.shutdown()
