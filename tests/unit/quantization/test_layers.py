"""Which layers the rules choose."""

import logging

import pytest
from torch import nn

from changenet.errors import SpecError
from changenet.quantization.layers import Rule, candidates, choose_layers


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.LayerNorm(4)


NETWORK = nn.ModuleDict({"blocks": nn.ModuleList([Block(), Block()]), "head": nn.Linear(4, 2)})
LINEAR = candidates(NETWORK, lambda module: isinstance(module, nn.Linear))


def choose(*rules: tuple[str, str], skip: tuple[str, ...] = ()) -> dict[str, str]:
    return choose_layers(LINEAR, rules=[Rule(*rule) for rule in rules], skip=skip, backend="torchao")


def test_a_pattern_matches_the_name_or_the_class() -> None:
    assert set(choose(("blocks.*.qkv", "int8"))) == {"blocks.0.qkv", "blocks.1.qkv"}
    assert set(choose(("Lin*", "int8"))) == set(LINEAR) == set(choose(("*", "int8")))
    with pytest.raises(SpecError):
        choose(("linear", "int8"))  # case counts


def test_a_rule_that_matches_nothing_is_named(caplog: pytest.LogCaptureFixture) -> None:
    choose(("*", "int8"), ("stem.*", "native"))
    assert [record.getMessage() for record in caplog.records] == [
        "quantize.layers: 'stem.*' matches no layer that torchao can quantize."
    ]


def test_a_name_to_skip_that_takes_nothing_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    choose(("*", "int8"), skip=("haed", "head"))
    assert [record.getMessage() for record in caplog.records] == [
        "quantize.skip_names: 'haed' takes nothing out that torchao can quantize."
    ]


def test_later_rules_win_and_native_takes_out() -> None:
    rules = [("Linear", "int8"), ("blocks.0.*", "native"), ("blocks.0.proj", "fp8_e4m3fn")]
    assert choose(*rules) == {
        "blocks.0.proj": "fp8_e4m3fn",
        "blocks.1.qkv": "int8",
        "blocks.1.proj": "int8",
        "head": "int8",
    }


def test_skip_names_win_over_every_rule() -> None:
    assert set(choose(("*", "int8"), skip=("*head*", "blocks.1.*"))) == {"blocks.0.qkv", "blocks.0.proj"}


@pytest.mark.parametrize(
    ("rules", "skip"),
    [([], ()), ([("Conv2d", "int8")], ()), ([("*", "native")], ()), ([("*", "int8")], ("Linear",))],
)
def test_nothing_left_is_an_error_that_lists_the_candidates(
    rules: list[tuple[str, str]], skip: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError, match=r"quantize\.layers: .*Linear: blocks\.0\.qkv.* head") as caught:
        choose(*rules, skip=skip)
    assert "conv" not in str(caught.value)
