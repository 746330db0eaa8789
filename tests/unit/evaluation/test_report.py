from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from changenet.data.lights import PictureLayout
from changenet.description import Threshold
from changenet.evaluation.metrics import decision_metrics
from changenet.evaluation.report.cases import Case, case_pictures, select_cases
from changenet.evaluation.report.html import Gallery, write_report

SCORES = np.array([0.1, 0.2, 0.7, 0.9, 0.3, 0.05, 0.75, 0.65])
LABELS = np.array(["PASS", "PASS", "PASS", "open", "open", "<b>short & co", "open", "PASS"], dtype=object)
IS_DEFECT = LABELS != "PASS"
LAYOUT = PictureLayout(width=32, height=24)


def report(folder: Path, **changes: Any) -> str:
    scores, is_defect, labels = (changes.pop(name, value) for name, value in _DATA.items())
    figures = decision_metrics(scores, is_defect, Threshold(0.5), labels=labels)
    arguments = {
        "title": "Evaluation of <model>",
        "figures": figures,
        "scores": scores,
        "is_defect": is_defect,
        "layout": LAYOUT,
        "provenance": {"checkpoint": "a & b.pth"},
    }
    return Path(write_report(str(folder), **{**arguments, **changes})).read_text(encoding="utf-8")


_DATA = {"scores": SCORES, "is_defect": IS_DEFECT, "labels": LABELS}


class Links(HTMLParser):
    """Collects whatever would make a browser fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_the_page_needs_no_other_file(tmp_path: Path, make_case: Callable[..., Case]) -> None:
    page = report(tmp_path, galleries=[Gallery("Worst escapes", "note", [make_case(LAYOUT)])])
    links = Links()
    links.feed(page)
    assert len(links.targets) == 4 + 3  # plots; test, golden, difference
    assert all(target.startswith("data:image/png;base64,") for target in links.targets)
    assert not {"script", "link", "iframe"} & set(links.tags)
    assert "url(" not in page
    for target in links.targets:
        Image.open(io.BytesIO(base64.b64decode(target.split(",")[1]))).verify()


def test_the_plots_lie_beside_it_as_png(tmp_path: Path) -> None:
    report(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "report.html",
        "roc.png",
        "precision_recall.png",
        "score_histogram.png",
        "confusion_matrix.png",
    }
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 400


def test_names_from_the_data_are_shown_as_text_never_as_markup(tmp_path: Path, make_case: Callable[..., Case]) -> None:
    case = make_case(LAYOUT, name="<img src=http://evil/x>", label="<script>alert(1)</script>")
    page = report(tmp_path, galleries=[Gallery("Worst", "", [case])], unscored=["<i>row</i>"])
    for raw in ("<img src=http", "<script", "<i>row", "<model>", "<b>short"):
        assert raw not in page
    for shown in ("&lt;script&gt;", "&lt;b&gt;short &amp; co", "a &amp; b.pth", "Evaluation of &lt;model&gt;"):
        assert shown in page


def test_figures_labels_and_cases_can_be_read_in_it(tmp_path: Path, make_case: Callable[..., Case]) -> None:
    page = report(tmp_path, galleries=[Gallery("Worst escapes", "Lowest first.", [make_case(LAYOUT, line=41)])])
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "2 of 4 defects caught; 2 of 4 good pairs called FAIL at threshold 0.5." in text
    assert "Recall 50 % 6.76 % to 93.24 %" in text
    assert "R17 called PASS label open · score 0.25 · CSV line 41" in text
    assert "Rows that could not be scored" not in text


def test_many_unscored_rows_are_counted_not_all_listed(tmp_path: Path) -> None:
    page = report(tmp_path, unscored=[f"test.csv:{line}: missing" for line in range(2, 62)])
    assert "test.csv:51: missing" in page
    assert "test.csv:52: missing" not in page
    assert "and 10 more" in page


@pytest.mark.parametrize("chosen", [slice(0, 3), slice(3, 7), slice(0, 0), slice(0, 1)])
def test_sets_with_one_class_or_nothing_still_give_a_report(tmp_path: Path, chosen: slice) -> None:
    page = report(tmp_path, scores=SCORES[chosen], is_defect=IS_DEFECT[chosen], labels=LABELS[chosen])
    assert "nan" not in page.lower().replace("data:image", "").split("base64")[0]
    assert (tmp_path / "roc.png").exists()


def test_distances_far_above_one_are_drawn(tmp_path: Path) -> None:
    report(tmp_path, scores=SCORES * 1e4)


def test_real_classes_show_their_own_table_and_confusion_matrix(tmp_path: Path) -> None:
    predictions = np.where(SCORES > 0.5, "open", "PASS").tolist()
    classes = ("PASS", "open", "<b>short & co", "spur")
    figures = decision_metrics(
        SCORES, IS_DEFECT, Threshold(0.5), labels=LABELS, predictions=predictions, classes=classes
    )
    plain = (tmp_path / "plain", tmp_path / "classes")
    assert "By class" not in report(plain[0])
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", report(plain[1], figures=figures)))
    assert "By class" in text
    assert "open 3 66.67 % 9.43 % to 99.16 % 50 % 6.76 % to 93.24 %" in text
    assert "spur 0 undefined undefined" in text
    assert (plain[0] / "confusion_matrix.png").read_bytes() != (plain[1] / "confusion_matrix.png").read_bytes()


def test_cases_are_the_most_telling_rows() -> None:
    chosen = select_cases(SCORES, IS_DEFECT, 0.5)
    assert list(chosen.escapes) == [5, 4]
    assert list(chosen.false_calls) == [2, 7]
    assert list(chosen.closest) == [6, 1, 0, 3]
    assert len(select_cases(SCORES, IS_DEFECT, 0.5, limit=1).closest) == 1


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (PictureLayout(width=32, height=24), (32, 24)),
        (PictureLayout(lights=("a", "b", "c"), width=32, height=24), (96, 24)),
        (PictureLayout(lights=tuple("abcd"), concat="grid", grid=(2, 2), width=32, height=24), (64, 48)),
        (PictureLayout(width=512, height=256), (128, 64)),
    ],
)
def test_lights_stand_side_by_side_and_large_ones_shrink(
    layout: PictureLayout, size: tuple[int, int], make_case: Callable[..., Case]
) -> None:
    pictures = case_pictures(make_case(layout), layout)
    assert [caption for caption, _ in pictures] == ["test", "golden", "difference"]
    for _, uri in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size == size


def test_engines_and_precisions_are_a_table(tmp_path: Path) -> None:
    row = {"engine": "torch", "precision": "fp32", "size_mb": 80.0, "latency_ms": {"1": 20.5, "8": 90.0}}
    row |= {"pairs_per_second": 88.9, "memory_mb": None, "auroc": 0.999, "false_call_rate_at_full_recall": 0.01}
    integers = {**row, "engine": "onnxruntime", "precision": "int8", "agreement": 0.995, "max_score_difference": 0.02}
    found = {"engines": [row, integers], "pairs": 1000, "set": "val.csv"}
    page = report(tmp_path, comparison=found)
    assert "1,000 pairs of val.csv" in page
    assert "<th>onnxruntime int8</th>" in page
    assert '<td class="number">99.5 %</td>' in page
    assert "agrees less" not in page
    assert (
        "99.9 %"
        in report(tmp_path, comparison={**found, "agrees": False, "min_agreement": 0.999}).partition("agrees less")[2]
    )
    assert "Engines and precisions" not in report(tmp_path)
