from __future__ import annotations

import pickle

from changenet.errors import DataError, Problem, SpecError


def test_a_problem_is_one_line_with_where_what_and_fix() -> None:
    problem = Problem("is -1,\nbut must be above 0.", "spec.yaml: train.optim.lr", "Write 0.001.")
    assert str(problem) == "spec.yaml: train.optim.lr: is -1, but must be above 0. Write 0.001."


def test_an_error_holds_all_problems() -> None:
    error = SpecError([Problem("a"), Problem("b", "there")])
    assert str(error).splitlines() == ["a", "there: b"]


def test_errors_travel_between_processes() -> None:
    error = DataError("broken", where="a.csv:3", fix="Mend it.")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is DataError
    assert back.problems == error.problems
