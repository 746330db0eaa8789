from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from changenet.data.annotations import parse_annotations, read_annotations
from changenet.errors import DataError

HEADER = "input_path,golden_path,label,object_name\n"


def test_everything_is_text_in_the_order_of_the_file(write_csv):
    path = write_csv("line,object_name,label,golden_path,input_path\n7,000410,NA,null,nan\n8,1e5,PASS,0.10,True\n")
    table = read_annotations(path)
    assert list(table.frame.columns) == ["line", "object_name", "label", "golden_path", "input_path"]
    assert table.frame.to_numpy().tolist() == [
        ["7", "000410", "NA", "null", "nan"],
        ["8", "1e5", "PASS", "0.10", "True"],
    ]
    assert table.labels.tolist() == ["NA", "PASS"]
    assert table.is_defect.tolist() == [True, False]


def test_byte_order_mark_crlf_and_quoted_newlines_keep_their_lines(write_csv):
    text = HEADER.replace("\n", "\r\n") + 'a,b,"two\r\nlines",x\r\n\r\na,b,PASS,y\r\n'
    table = read_annotations(write_csv(b"\xef\xbb\xbf" + text.encode()))
    assert table.lines.tolist() == [2, 5]
    assert table.labels.tolist() == ["two\r\nlines", "PASS"]


def test_all_problems_of_a_file_come_at_once_with_their_lines(write_csv):
    rows = ["a,b,PASS,x", "a,b,pass,x", "a,b,,x", "a,b,x", "a,b,Pass,x", "a,b,PASS,", "a,b,c,d,e"]
    path = write_csv(HEADER + "\n".join(rows) + "\n")
    with pytest.raises(DataError) as caught:
        read_annotations(path)
    lines = sorted(int(problem.where.rsplit(":", 1)[1]) for problem in caught.value.problems)
    assert lines == [3, 4, 5, 6, 7, 8]
    assert "is 'pass'" in str(caught.value)
    assert "3 fields where the header has 4" in str(caught.value)


def test_blanks_around_labels_are_trimmed_with_a_warning_and_kept_in_the_table(write_csv, caplog):
    with caplog.at_level(logging.WARNING):
        table = read_annotations(write_csv(HEADER + "a,b, PASS ,x\na,b,\tshift,y\n"))
    assert table.labels.tolist() == ["PASS", "shift"]
    assert table.frame["label"].tolist() == [" PASS ", "\tshift"]
    assert "train.csv:2" in caplog.text and "train.csv:3" in caplog.text


def test_only_other_cases_of_pass_are_refused(write_csv):
    table = read_annotations(write_csv(HEADER + "a,b,passed,x\na,b,no PASS,x\na,b,PASS,x\n"))
    assert table.is_defect.tolist() == [True, True, False]


def test_label_may_be_absent_or_anything_where_it_is_not_required(write_csv):
    table = read_annotations(write_csv("input_path,golden_path,object_name\na,b,x\n"), require_label=False)
    assert table.labels is None
    with pytest.raises(DataError, match="no column 'label'"):
        _ = table.is_defect
    assert len(read_annotations(write_csv(HEADER + "a,b,pass,x\na,b,,y\n"), require_label=False)) == 2


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", "empty_file", "is empty"),
        (b"\n\n", "empty_file", "is empty"),
        (HEADER.encode(), "no_rows", "no rows"),
        (HEADER.replace(",", ";").encode() + b"a;b;PASS;c\n", "wrong_separator", "';'"),
        (HEADER.replace(",", "\t").encode() + b"a\tb\tPASS\tc\n", "wrong_separator", r"'\t'"),
        (b"input_path,label,object_name\na,PASS,c\n", "missing_column", "'golden_path'"),
        (b"input_path, golden_path,label,object_name\na,b,PASS,c\n", "missing_column", "Is it ' golden_path'?"),
        (b"Input_Path,golden_path,label,object_name\na,b,PASS,c\n", "missing_column", "Is it 'Input_Path'?"),
        (b"input_path,golden_path,label,object_name,label\na,b,PASS,c,d\n", "repeated_column", "'label'"),
        (HEADER.encode() + b"a,b,PASS,x\na,b,r\xe9sist,x\n", "not_utf8", "train.csv:3: is not UTF-8 (byte 0xe9)"),
        ((HEADER + "a,b,PASS,c\n").encode("utf-16"), "not_utf8", "UTF-16"),
        (HEADER.encode() + b'a,b,PASS,x\na,b,"open,y\n', "bad_quoting", "train.csv:3"),
    ],
)
def test_files_that_are_no_table_say_why(write_csv, counts, content, kind, said):
    _, findings = parse_annotations(write_csv(content))
    assert counts(findings) == {kind: 1}
    with pytest.raises(DataError) as caught:
        findings.raise_errors()
    assert said in str(caught.value)


def test_missing_file_and_folder_are_data_errors(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_annotations(path)


def test_a_flood_of_bad_rows_stays_readable(write_csv):
    _, findings = parse_annotations(write_csv(HEADER + "a,b,pass,x\n" * 5000))
    errors = list(findings.errors())
    assert len(errors) == 21
    assert str(errors[-1]) == "4980 more of this kind (pass in another case)"


field = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(field, field, field, field), min_size=1, max_size=8))
def test_any_quoted_text_comes_back_with_the_line_it_began_on(write_csv, rows):
    def quoted(row):
        return ",".join('"' + cell.replace('"', '""') + '"' for cell in row)

    path = write_csv("input_path,golden_path,object_name,note\n" + "\n".join(map(quoted, rows)) + "\n")
    table, _ = parse_annotations(path, require_label=False)
    assert [tuple(row) for row in table.frame.to_numpy().tolist()] == rows
    breaks = [sum(len(cell.replace("\r\n", "\n").replace("\r", "\n").split("\n")) - 1 for cell in row) for row in rows]
    assert table.lines.tolist() == (2 + np.arange(len(rows)) + np.concatenate([[0], np.cumsum(breaks)[:-1]])).tolist()
