from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from changenet.model.network import ChangeNet
from changenet.training.loop import EpochResult, predict, train_epoch
from changenet.training.losses import make_loss
from changenet.training.optimizers import make_optimizer, make_schedule
from changenet.training.state import Progress, Stateful

CPU = torch.device("cpu")
Batch = dict[str, Tensor]


@pytest.fixture
def batches() -> list[Batch]:
    """Four batches of eight pairs; a defect has a bright square where its golden is dark."""
    random = torch.Generator().manual_seed(3)
    made = []
    for number in range(4):
        golden = torch.randint(40, 120, (8, 3, 32, 32), generator=random, dtype=torch.uint8)
        test, label = golden.clone(), torch.arange(8) % 2
        test[label == 1, :, 8:24, 8:24] = 250
        made.append({"test": test, "golden": golden, "label": label, "row": torch.arange(8) + 8 * number})
    return made


def _network(difference_module: str = "learnable") -> ChangeNet:
    torch.manual_seed(0)
    return ChangeNet(
        backbone="timm/test_efficientnet", difference_module=difference_module, image_size=(32, 32), embed_dim=8
    )


def _parts(network: nn.Module, *, precision: str = "32-true") -> Stateful:
    optimizer = make_optimizer(network.parameters(), learning_rate=5e-3, weight_decay=0.01)
    schedule = make_schedule(optimizer, policy="linear", steps_per_epoch=4, num_epochs=8)
    return Stateful(optimizer, schedule, torch.amp.GradScaler("cpu", enabled=precision == "16-mixed"))


def _epoch(network: ChangeNet, parts: Stateful, batches: list[Batch], *, loss: str = "ce", **options: object) -> float:
    result = train_epoch(
        network,
        batches,
        normalise=network.normalise,
        loss=make_loss(loss),
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        scaler=parts.scaler,
        device=CPU,
        **options,
    )
    assert result.rows.tolist() == list(range(32))
    return result.loss


@pytest.mark.parametrize(
    ("difference_module", "loss", "precision"),
    [("learnable", "ce", "32-true"), ("learnable", "ce", "bf16-mixed"), ("euclidean", "contrastive", "32-true")],
)
def test_loss_falls(batches: list[Batch], difference_module: str, loss: str, precision: str) -> None:
    network = _network(difference_module)
    parts = _parts(network)
    losses = [_epoch(network, parts, batches, loss=loss, precision=precision) for _ in range(6)]
    assert losses[-1] < 0.7 * losses[0]


def test_accumulation_steps_on_whole_groups_and_on_the_last_batch(batches: list[Batch]) -> None:
    network, stepped = _network(), []
    _epoch(network, _parts(network), batches, accumulate=3, after_batch=lambda _, did: stepped.append(did))
    assert stepped == [False, False, True, True]


def test_clipping_bounds_the_step(batches: list[Batch]) -> None:
    network = _network()
    before = torch.cat([p.detach().flatten() for p in network.parameters()]).clone()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    parts = Stateful(
        optimizer, make_schedule(optimizer, policy="linear", steps_per_epoch=1, num_epochs=1), _parts(network).scaler
    )
    train_epoch(
        network, batches[:1], normalise=network.normalise, loss=make_loss("ce"), optimizer=optimizer,
        schedule=parts.schedule, scaler=parts.scaler, device=CPU, clip_norm=0.01,
    )  # fmt: skip
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert (after - before).norm() <= 0.0101


def test_prediction_keeps_rows_and_changes_nothing(batches: list[Batch]) -> None:
    network = _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = predict(network, batches[::-1], normalise=network.normalise, device=CPU)
    assert result.rows.tolist() == [*range(24, 32), *range(16, 24), *range(8, 16), *range(8)]
    assert result.output.shape == (32, 2)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_restored_run_goes_on_as_if_it_had_not_stopped(batches: list[Batch]) -> None:
    def trained(stop: bool) -> dict[str, Tensor]:
        network = _network()
        parts = _parts(network)
        _epoch(network, parts, batches)
        if stop:
            weights, training = network.state_dict(), parts.capture(Progress(epoch=1), network)
            network = _network()
            network.load_state_dict(weights)
            parts = _parts(network)
            assert parts.restore(training, network) == Progress(epoch=1)
        _epoch(network, parts, batches)
        return network.state_dict()

    straight, stopped = trained(False), trained(True)
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


class _Nothing:
    def __iter__(self) -> Iterator[Batch]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_a_rank_without_batches_predicts_nothing() -> None:
    network = _network()
    assert len(predict(network, _Nothing(), normalise=network.normalise, device=CPU).rows) == 0


def test_progress_knows_the_best_and_counts_the_rest() -> None:
    progress = Progress()
    improved = [
        progress.improves(value, name="val_loss", mode="min", min_delta=0.1) for value in (1.0, 0.95, 0.8, None, 0.9)
    ]
    assert improved == [True, True, True, False, False]
    assert (progress.best, progress.stale) == (0.8, 1)
    progress.improves(0.75, name="val_loss", mode="min", min_delta=0.1)
    assert (progress.best, progress.stale) == (0.75, 2), "a small step is the best, and yet no reason to go on"
    assert Progress().improves(0.5, name="val_auroc", mode="max")


def test_the_rows_of_all_ranks_come_in_the_order_of_the_file() -> None:
    def part(rows: list[int], loss: float) -> EpochResult:
        return EpochResult(loss, torch.tensor(rows), torch.tensor(rows) / 10, torch.tensor(rows) % 2)

    nothing = EpochResult(0.0, torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0, dtype=torch.int64))
    merged = EpochResult.merged([part([4, 0], 0.3), part([3, 1, 2], 0.6), nothing])
    assert merged.rows.tolist() == [0, 1, 2, 3, 4]
    assert merged.output.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert merged.target.tolist() == [0, 1, 0, 1, 0]
    assert merged.loss == pytest.approx(0.3)
