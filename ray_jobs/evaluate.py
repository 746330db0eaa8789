"""`changenet evaluate`: how well a trained network decides on the test set."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changenet import storage
from changenet.bundle import is_bundle, read_bundle
from changenet.data.pairs import PairSource
from changenet.description import BINARY_CLASSES, Threshold
from changenet.errors import DataError
from changenet.evaluation.metrics import decision_metrics
from changenet.evaluation.report.cases import Case, select_cases
from changenet.evaluation.report.html import Gallery, write_report
from changenet.evaluation.report.wording import number, percent
from ray_jobs.action import Action
from ray_jobs.console import out, result_table
from ray_jobs.quantize_comparison import comparisons_in
from ray_jobs.scores_csv import check_columns, write_scores
from ray_jobs.scoring import Scored
from ray_jobs.trained import TrainedNetwork

logger = logging.getLogger(__name__)

FILE = "evaluate.csv"


def run(spec: str, overrides: Sequence[str] = (), *, address: str | None = None) -> int:
    """Score the test set and write `metrics.json`, `evaluate.csv`, `report.html` and its plots.

    Raises:
        SpecError: The spec is wrong or contradicts the checkpoint.
        DataError: The CSV file is wrong; or rows could not be scored, after everything was written.
        CheckpointError: The checkpoint cannot be used.
    """
    with Action.load("evaluate", spec, overrides) as action:
        trained = TrainedNetwork(action.experiment, "evaluate", address=address)
        source = trained.rows("test")
        check_columns(source.annotations)
        threshold = trained.threshold()
        scored = trained.score(source, threshold=threshold, title="Evaluating")
        figures = _write(action, trained, source, scored, threshold)
        trained.finish()
        _log_like_tao(figures)
        action.status.write("RUNNING", "Test metrics generated.", kpi=figures["tao"])
        _print_figures(figures, action.folder)
        scored.raise_errors(source.annotations, written=action.path(FILE))
    return 0


def _write(
    action: Action, trained: TrainedNetwork, source: PairSource, scored: Scored, threshold: Threshold
) -> dict[str, Any]:
    """Write every file of the evaluation and return the figures."""
    annotations, classes, good = source.annotations, trained.description.classes, scored.good
    write_scores(action.path(FILE), annotations, scored)
    assert annotations.labels is not None
    scores, is_defect = scored.scores[good], annotations.is_defect[good]
    figures = decision_metrics(
        scores,
        is_defect,
        threshold,
        labels=annotations.labels[good].tolist(),
        predictions=None if classes == BINARY_CLASSES else scored.predictions[good].tolist(),
        classes=classes,
    )
    storage.write_text(action.path("metrics.json"), json.dumps(figures, indent=2, allow_nan=False) + "\n")
    write_report(
        action.folder,
        title=f"Evaluation of {Path(trained.file.path).name}",
        figures=figures,
        scores=scores,
        is_defect=is_defect,
        layout=source.layout,
        galleries=_galleries(source, scored, threshold),
        unscored=[f"{annotations.where(row)}: {scored.errors[row]}" for row in np.flatnonzero(~good).tolist()],
        comparison=comparison_of(trained.file.path, action.experiment.action_dir("quantize")),
        provenance=_provenance(trained, source, threshold),
    )
    return figures


def comparison_of(path: str, quantized_to: str) -> dict[str, Any] | None:
    """Return what `changenet quantize` found about a file that it wrote, or that it read; the files' content tells.

    Args:
        path: The file, or a bundle of what it holds.
        quantized_to: The folder of that action, where one is looked for after the file's own folder.
    """
    bundle = read_bundle(path).manifest if is_bundle(path) else None
    folders = [quantized_to] if bundle else [storage.parent(path), quantized_to]
    for file in (file for folder in folders for file in comparisons_in(folder)):
        try:
            found: dict[str, Any] = json.loads(storage.read_text(file))
            about = {found["artifact_sha256"], found["checkpoint_sha256"], found.get("weights_sha256")}
            if not found["engines"]:  # it was stopped before it compared
                continue
        except (DataError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s is left out of the report: it cannot be read (%s).", file, error)
            continue
        if bundle is None:
            if storage.file_sha256(path) in about:
                return found
        elif bundle.weights_sha256 in about and bundle.engines[0].tag.get("backend") in (None, found["backend"]):
            return found
    return None


def _galleries(source: PairSource, scored: Scored, threshold: Threshold) -> list[Gallery]:
    annotations, rows = source.annotations, np.flatnonzero(scored.good)
    assert annotations.labels is not None
    labels, names = annotations.labels, annotations.frame["object_name"].array

    def cases(chosen: NDArray[np.int64]) -> list[Case]:
        found = []
        for row in rows[chosen].tolist():
            test, golden = source.read(row)
            found.append(
                Case(
                    name=str(names[row]),
                    line=int(annotations.lines[row]),
                    label=str(labels[row]),
                    score=float(scored.scores[row]),
                    prediction=str(scored.predictions[row]),
                    test=test,
                    golden=golden if golden.ndim == 3 else golden[0],
                )
            )
        return found

    selection = select_cases(scored.scores[rows], annotations.is_defect[rows], threshold.value)
    escapes, false_calls, closest = (
        cases(chosen) for chosen in (selection.escapes, selection.false_calls, selection.closest)
    )
    return [
        Gallery(
            "Worst escapes",
            "Defects called PASS, the lowest scores first." if escapes else "No defect was called PASS.",
            escapes,
        ),
        Gallery(
            "Worst false calls",
            "Good pairs called FAIL, the highest scores first." if false_calls else "No good pair was called FAIL.",
            false_calls,
        ),
        Gallery("Closest right decisions", "Decided rightly, nearest to the threshold first.", closest),
    ]


def _provenance(trained: TrainedNetwork, source: PairSource, threshold: Threshold) -> dict[str, str]:
    description, annotations = trained.description, source.annotations
    parts = [f"{threshold.value:.6g}", f"policy {threshold.policy}"]
    if threshold.target is not None:
        parts.append(f"target recall {percent(threshold.target)}")
    if threshold.interval is not None:
        low, high = (percent(bound) for bound in threshold.interval)
        parts.append(f"recall on validation between {low} and {high} (95 %)")
    columns, rows = description.layout.tiles
    lights = ", ".join(light or "one light" for light in description.layout.lights)
    return {
        "Network": trained.file.path,
        "Engine": f"{trained.engine}, {trained.precision}",
        "Encoder": f"{description.network.get('backbone')}, {description.difference_module}",
        "Pictures": f"{lights}; {description.layout.width} x {description.layout.height} pixels, {columns} x {rows}",
        "Threshold": "; ".join(parts),
        "Test set": f"{annotations.path} ({len(annotations):,} rows, SHA-256 {storage.file_sha256(annotations.path)})",
        "Training set": f"SHA-256 {description.data_hash}" if description.data_hash else "unknown",
        "Trained with": ", ".join(f"{name} {version}" for name, version in description.versions.items()) or "unknown",
        "Written": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _log_like_tao(figures: Mapping[str, Any]) -> None:
    """Log TAO 7.3's line, which scripts look for."""
    tao = {name: "undefined" if value is None else round(value, 2) for name, value in figures["tao"].items()}
    logger.info(
        "Tot Comp %d Total Accuracy %s False Negative %s False Alarm %s Defect Correctly Captured %s for Margin %s",
        figures["pairs"],
        tao["test_acc"],
        tao["test_fnr"],
        tao["test_fpr"],
        tao["defect_acc"],
        f"{figures['threshold']:.6g}",
    )


def _print_figures(figures: Mapping[str, Any], folder: str) -> None:
    rows: list[tuple[object, ...]] = [
        ("pairs", f"{figures['pairs']:,}", f"{figures['passes']:,} PASS, {figures['defects']:,} defects"),
        ("threshold", f"{figures['threshold']:.6g}", f"policy {figures['threshold_policy']}"),
    ]
    for name in ("recall", "escape_rate", "false_call_rate", "false_call_rate_at_full_recall", "accuracy", "precision"):
        interval = figures[f"{name}_interval"]
        between = f"{percent(interval[0])} to {percent(interval[1])}" if interval else ""
        rows.append((name.replace("_", " "), percent(figures[name]), between))
    rows.append(("AUROC", number(figures["auroc"]), ""))
    rows.append(("average precision", number(figures["average_precision"]), ""))
    out.print(result_table("Evaluation", ("figure", "value", "95 % interval"), rows))
    if "per_class" in figures:
        by_class = [
            (name, f"{row['pairs']:,}", percent(row["recall"]), percent(row["precision"]))
            for name, row in figures["per_class"].items()
        ]
        out.print(result_table("By class", ("class", "pairs", "recall", "precision"), by_class))
    out.print(f"Report: {storage.join(folder, 'report.html')}", soft_wrap=True, highlight=False, markup=False)
