from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

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
    criterion = make_loss(loss)
    result = train_epoch(
        network,
        batches,
        normalise=network.normalise,
        loss=criterion,
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        scaler=parts.scaler,
        device=CPU,
        **options,
    )
    assert result.rows.tolist() == list(range(32))
    return float(criterion(result.output, result.target))


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


def _gradient(batches: list[Batch], *, weights: list[float] | None) -> Tensor:
    """Return what one step at rate 1 takes off a small classifier, which has no batch statistics."""
    torch.manual_seed(0)
    network = nn.Linear(3 * 32 * 32, 2)
    before = network.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)

    class Pairs(nn.Module):
        def forward(self, test: Tensor, golden: Tensor) -> Tensor:
            return trained((test - golden).flatten(1))

    trained: nn.Module = network
    if distributed.is_initialized():
        trained = nn.parallel.DistributedDataParallel(network)
    train_epoch(
        Pairs(), batches, normalise=lambda picture: picture.float() / 255,
        loss=make_loss("ce", class_weights=weights), optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: 1.0),
        scaler=torch.amp.GradScaler("cpu", enabled=False), device=CPU, accumulate=3,
    )  # fmt: skip
    return before - network.weight.detach()


def _cut(batch: Batch, *sizes: int) -> list[Batch]:
    parts = {key: tensor.split(sizes) for key, tensor in batch.items()}
    return [{key: tensors[number] for key, tensors in parts.items()} for number in range(len(sizes))]


WEIGHTS = ([1.0, 10.0], [0.0, 1.0], None)  # with the second one a batch of good pairs alone has no weight


@pytest.fixture
def uneven(batches: list[Batch]) -> Batch:
    """Eight pairs; all defects are in the second half."""
    order = batches[0]["label"].argsort()
    return {key: tensor[order] for key, tensor in batches[0].items()}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_step_follows_the_mean_of_all_its_rows_however_they_are_cut(
    uneven: Batch, weights: list[float] | None
) -> None:
    whole = _gradient([uneven], weights=weights)
    # Two batches are fewer than the three that a step is for.
    torch.testing.assert_close(_gradient(_cut(uneven, 4, 4), weights=weights), whole, rtol=1e-4, atol=1e-6)


def _rank(rank: int, uneven: Batch, meeting: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        mine = _cut(uneven, 4, 4)[rank]
        torch.save([_gradient(_cut(mine, 2, 2), weights=weights) for weights in WEIGHTS], f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_ranks_follow_the_mean_of_all_their_rows(uneven: Batch, tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (uneven, str(tmp_path / "meeting"), str(tmp_path)), nprocs=2)
    wanted = [_gradient([uneven], weights=weights) for weights in WEIGHTS]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


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
    def part(rows: list[int]) -> EpochResult:
        return EpochResult(torch.tensor(rows), torch.tensor(rows) / 10, torch.tensor(rows) % 2)

    nothing = EpochResult(torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0, dtype=torch.int64))
    merged = EpochResult.merged([part([4, 0]), part([3, 1, 2]), nothing])
    assert merged.rows.tolist() == [0, 1, 2, 3, 4]
    assert merged.output.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert merged.target.tolist() == [0, 1, 0, 1, 0]
