"""The kinds of trouble that CSV files and pictures can have: which are errors and which are warnings."""

from __future__ import annotations

from enum import StrEnum

from changenet.errors import DataError, Problem


class Kind(StrEnum):
    """One kind of trouble; its value is the name in the JSON report."""

    # errors: the file as a whole
    MISSING_CSV = "missing_csv"
    NOT_UTF8 = "not_utf8"
    EMPTY_FILE = "empty_file"
    NO_ROWS = "no_rows"
    WRONG_SEPARATOR = "wrong_separator"
    MISSING_COLUMN = "missing_column"
    REPEATED_COLUMN = "repeated_column"
    RESULT_COLUMN = "column_named_like_a_result"
    MISSING_IMAGES_DIR = "missing_images_dir"
    # errors: one row
    RAGGED_ROW = "ragged_row"
    BAD_QUOTING = "bad_quoting"
    EMPTY_LABEL = "empty_label"
    PASS_CASE = "pass_in_another_case"  # noqa: S105
    NOT_A_CLASS = "label_is_no_class"
    EMPTY_OBJECT_NAME = "empty_object_name"
    OUTSIDE = "path_outside_images_dir"
    # errors: one picture
    MISSING_PICTURE = "missing_picture"
    UNREADABLE = "unreadable_picture"
    TRUNCATED = "truncated_picture"
    TOO_LARGE = "over_large_picture"
    MULTI_FRAME = "multi_frame_picture"
    GOLDEN_FOLDER_ABSENT = "golden_folder_absent"
    GOLDEN_FOLDER_EMPTY = "golden_folder_empty"
    # warnings
    LABEL_BLANKS = "blanks_around_label"
    DUPLICATE = "duplicate"
    CONTRADICTORY_LABELS = "contradictory_labels"
    IN_TWO_SPLITS = "picture_in_two_splits"
    ONE_CLASS = "one_class_only"
    UNEQUAL_SIZES = "unequal_sizes"
    EXTENSION = "extension_differs_from_content"
    UNSEEN_LABEL = "label_not_in_training"
    IMBALANCE = "imbalance"
    BRIGHTNESS = "golden_brightness_outlier"

    @property
    def is_error(self) -> bool:
        """Whether the data cannot be used as it is (otherwise a warning)."""
        return self not in _WARNINGS

    @property
    def words(self) -> str:
        """The name for people."""
        return self.value.replace("_", " ")


_WARNINGS = frozenset(
    {
        Kind.LABEL_BLANKS,
        Kind.DUPLICATE,
        Kind.CONTRADICTORY_LABELS,
        Kind.IN_TWO_SPLITS,
        Kind.ONE_CLASS,
        Kind.UNEQUAL_SIZES,
        Kind.EXTENSION,
        Kind.UNSEEN_LABEL,
        Kind.IMBALANCE,
        Kind.BRIGHTNESS,
    }
)

LABEL_ERRORS = frozenset({Kind.EMPTY_LABEL, Kind.PASS_CASE})


class PictureError(DataError):
    """One picture, or the path to it, is wrong; `kind` says how."""

    def __init__(self, kind: Kind, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.kind = kind

    @property
    def problem(self) -> Problem:
        """The one thing that is wrong."""
        return self.problems[0]

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.kind, self.problem)


def _rebuild(kind: Kind, problem: Problem) -> PictureError:
    return PictureError(kind, problem.what, where=problem.where, fix=problem.fix)
