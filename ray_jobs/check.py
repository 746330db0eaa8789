"""`changenet check`: the spec, every row and every picture of the splits it names, before any training."""

from __future__ import annotations

import json
from collections.abc import Sequence

from changenet.data.findings import Findings
from changenet.data.kinds import Kind
from changenet.data.scan import ScanReport, Split, scan
from changenet.data.scan_rows import PictureRules
from changenet.errors import SpecError
from changenet.spec import Experiment
from ray_jobs.action import Action
from ray_jobs.console import out, progress, result_table

SPLITS = ("train", "validation", "test", "infer")
_SHOWN = 3  # offenders of a kind in the table


def run(spec: str, overrides: Sequence[str] = (), *, json_output: bool = False) -> int:
    """Scan what the spec names and print what was found; starts no Ray.

    Args:
        spec: Experiment spec; a train section is not needed.
        overrides: `key=value` over it.
        json_output: Print JSON instead of a table.

    Returns:
        0: there are at most warnings.

    Raises:
        SpecError: The spec is wrong, or names no CSV file.
        DataError: All errors, after the table was printed.
    """
    with Action.load("check", spec, overrides) as action:
        report = _scan(action.experiment)
        if json_output:
            out.print(json.dumps(report.to_dict(), indent=2), soft_wrap=True)
        else:
            _print(report)
        report.raise_errors()
    return 0


def splits_of(experiment: Experiment) -> list[Split]:
    """Return the splits that have a CSV file."""
    data = experiment.dataset.classify
    named = [name for name in SPLITS if getattr(data, f"{name}_dataset").csv_path]
    return [
        Split(
            name=name,
            csv_path=files.csv_path,
            images_dir=files.images_dir,
            labelled=name != "infer",
            scored=name in ("test", "infer"),
        )
        for name, files in zip(named, experiment.files(*named), strict=True)
    ]


def _scan(experiment: Experiment) -> ScanReport:
    splits = splits_of(experiment)
    if not splits:
        what = "no data set has a csv_path"
        raise SpecError(what, where="dataset.classify", fix=f"Name the CSV file of {', '.join(SPLITS)}, or of some.")
    data = experiment.dataset.classify
    rules = PictureRules(image_ext=data.image_ext, lights=experiment.lights, num_golden=data.num_golden)
    with progress() as bar:
        task = bar.add_task("Checking rows", total=None)
        return scan(
            splits,
            rules=rules,
            classes=experiment.classes,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _print(report: ScanReport) -> None:
    rows = ", ".join(f"{name} {count}" for name, count in report.rows.items())
    if not report.findings.counts:
        out.print(f"No errors, no warnings. Rows: {rows}.")
        return
    cells = [
        ("error" if kind.is_error else "warning", kind.words, count, _first(report.findings, kind))
        for kind, count in report.findings.counts.items()
    ]
    errors = sum(count for kind, count in report.findings.counts.items() if kind.is_error)
    title = f"{errors} errors, {sum(report.findings.counts.values()) - errors} warnings. Rows: {rows}"
    out.print(result_table(title, ["severity", "kind", "count", "first"], cells))


def _first(findings: Findings, kind: Kind) -> str:
    return "\n".join(f"{problem.where}: {problem.what}" for problem in findings.first(kind)[:_SHOWN])
