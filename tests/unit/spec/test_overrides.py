from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.spec.overrides import parse_override, parse_value
from changenet.spec.rendering import flow
from changenet.spec.tree import get, parse_path, put, show_path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("null", None),
        ("", None),
        ('"0123"', "0123"),
        ("'a b'", "a b"),
        ("[0, 1]", [0, 1]),
        ("{a: 1, b: [2]}", {"a": 1, "b": [2]}),
        ("{a:1,b:{c:x}}", {"a": 1, "b": {"c": "x"}}),
        ("true", True),
        ("a=b", "a=b"),
        ("/path/with spaces", "/path/with spaces"),
        ("${oc.env:HOME}/x", "${oc.env:HOME}/x"),
        ("'/data/run #2'", "/data/run #2"),
        ("/data/run#2", "/data/run#2"),
        ("['a #b', c#]", ["a #b", "c#"]),
    ],
)
def test_values_are_yaml_in_flow_form(text: str, value: object) -> None:
    assert parse_override(f"a.b={text}") == (("a", "b"), value)


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", "a=[1", "a.=2", ""])
def test_what_cannot_be_read_is_a_problem(problems, text: str) -> None:
    (line,) = problems("", text)
    assert line.startswith("command line")


@pytest.mark.parametrize("value", ["/data/run #2", "#2", "'a' # b", "[1, 2] #3", "[1, 2 #3]"])
def test_nothing_after_a_hash_is_lost(problems, value: str) -> None:
    (line,) = problems("", f"results_dir={value}")
    assert line.startswith("command line: ") and "not YAML" in line


def test_later_overrides_win(load) -> None:
    assert load("train: {num_epochs: 3}", "train.num_epochs=4", "+train.num_epochs=5").experiment.train.num_epochs == 5


def test_a_mapping_joins_a_section_and_replaces_a_value(load) -> None:
    loaded = load(
        "train: {optim: {lr: 0.1, optim: sgd}}\ndataset: {classify: {input_map: {a: 0, b: 1}}}",
        "train.optim={lr: 0.2}",
        "dataset.classify.input_map={c: 0}",
    )
    assert (loaded.experiment.train.optim.optim, loaded.experiment.train.optim.lr) == ("sgd", 0.2)
    assert loaded.experiment.lights == ("c",)


def test_items_of_lists_can_be_set(load) -> None:
    rules = "quantize: {layers: [{module_name: a}]}"
    layers = load(
        rules, "quantize.layers[0].module_name=b", "quantize.layers[1]={module_name: c}"
    ).experiment.quantize.layers
    assert [layer.module_name for layer in layers] == ["b", "c"]


@pytest.mark.parametrize("text", ["train.num_epochs.x=1", "quantize.layers[7].module_name=a"])
def test_a_way_that_leads_nowhere_is_a_problem(problems, text: str) -> None:
    assert len(problems("train: {num_epochs: 3}\nquantize: {layers: []}", text)) == 1


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
).filter(lambda value: "${" not in str(value))


@settings(max_examples=150, deadline=None)
@given(values)
def test_every_value_that_is_written_is_read_back(value: object) -> None:
    assert parse_value(flow(value)) == value


names = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(names | st.integers(0, 9).map(str), min_size=1, max_size=5), names)
def test_paths_are_read_back(parts: list[str], first: str) -> None:
    path = (first, *parts)
    assert parse_path(show_path(path)) == path


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.lists(names, min_size=1, max_size=3).map(tuple), st.integers()), max_size=5))
def test_the_last_value_put_at_a_path_is_the_one_got(steps: list[tuple[tuple[str, ...], int]]) -> None:
    tree: dict[str, object] = {}
    for path, value in steps:
        try:
            put(tree, path, value)
        except ValueError:
            continue
        assert get(tree, path) == value
