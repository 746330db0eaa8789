"""`changenet sample`: a synthetic data set with a spec that trains on it."""

from __future__ import annotations

from changenet.synthetic import DEFECTS, Request, write_dataset
from ray_jobs.console import out, progress, result_table


def run(folder: str, *, pairs: int = 1000, lights: int = 1, goldens: int = 1, size: int = 64, seed: int = 0) -> int:
    """Write `images/`, four CSV files and `spec.yaml` into a new or empty folder, and say what was written.

    Args:
        folder: Where to write.
        pairs: Pairs in the four files together.
        lights: Lights a picture, 1 to 4.
        goldens: Goldens a site.
        size: Side of the square picture of one light, in pixels.
        seed: The same options and seed give the same bytes.

    Raises:
        DataError: An option is out of range, or the folder holds something else.
    """
    request = Request(pairs=pairs, lights=lights, goldens=goldens, size=size, seed=seed)
    with progress() as bar:
        task = bar.add_task("Making boards", total=pairs)
        summary = write_dataset(folder, request, advance=lambda done: bar.advance(task, done))
    rows = [
        [label, *(counts.get(label, 0) for counts in summary.counts.values())]
        for label in ("PASS", *DEFECTS)
        if any(label in counts for counts in summary.counts.values())
    ]
    out.print(result_table(f"{summary.pictures} pictures", ["label", *summary.counts], rows))
    out.print(f"Written to {summary.folder}", soft_wrap=True)
    out.print(f"Next: changenet check -e {summary.folder}/spec.yaml", soft_wrap=True)
    return 0
