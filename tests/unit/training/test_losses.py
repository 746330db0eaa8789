from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from changenet.training.losses import contrastive_loss, make_loss


def test_each_distance_meets_its_own_label() -> None:
    # The example of the faulty broadcast: TAO gives 1.91875 and a gradient that no label shapes.
    distance = torch.tensor([0.1, 1.5, 0.3, 2.5], requires_grad=True)
    loss = contrastive_loss(distance, torch.tensor([0, 1, 0, 1]), margin=2.0).mean()
    loss.backward()
    assert loss.item() == pytest.approx(0.0875)
    assert distance.grad.tolist() == pytest.approx([0.05, -0.25, 0.15, 0.0])


def test_a_column_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        contrastive_loss(torch.zeros(3), torch.zeros(3, 1), margin=2.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), min_size=1, max_size=8))
def test_contrastive_loss_does_not_depend_on_the_order(pairs: list[tuple[float, bool]]) -> None:
    def loss(items: list[tuple[float, bool]]) -> float:
        distances, labels = zip(*items, strict=True)
        return make_loss("contrastive")(torch.tensor(distances), torch.tensor(labels)).item()

    assert loss(pairs) == pytest.approx(loss(pairs[::-1]), abs=1e-5)


def test_class_weights_raise_the_price_of_an_escape() -> None:
    logits, target = torch.tensor([[2.0, -2.0], [2.0, -2.0]]), torch.tensor([0, 1])
    plain = make_loss("ce")(logits, target)
    weighted = make_loss("ce", class_weights=[1.0, 10.0])(logits, target)
    assert weighted > plain
    expected = torch.nn.functional.cross_entropy(logits, target, weight=torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(weighted, expected)


def test_margin_of_the_contrastive_loss_is_the_spec_s() -> None:
    distance, defect = torch.tensor([1.0]), torch.tensor([1])
    assert make_loss("contrastive", margin=3.0)(distance, defect).item() == pytest.approx(4.0)
