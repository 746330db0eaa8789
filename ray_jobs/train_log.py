"""Where a training run writes its figures: `metrics.csv`, TensorBoard events and `status.json`. Rank 0 alone has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from changenet import storage
from changenet.training.loop import Batches
from ray_jobs.metrics_csv import METRICS, write_epoch
from ray_jobs.status import StatusLog, clock

SCALARS = ("learning_rate", *METRICS, "threshold")


class TrainLog:
    """Keeps `metrics.csv` (one line an epoch), TensorBoard events and `status.json` of one run.

    Args:
        folder: The action's folder.
        first_epoch: Points of an earlier run from this epoch on are taken back: it is done again.
        num_epochs: For the estimate of the time left.
        tensorboard: Whether pictures and histograms are written beside the scalars (`train.tensorboard.enabled`).
        every: Epochs between pictures and histograms (`infrequent_logging_frequency`).
    """

    def __init__(self, folder: str, *, first_epoch: int, num_epochs: int, tensorboard: bool, every: int) -> None:
        self._folder = folder
        self._status = StatusLog(storage.join(folder, "status.json"))
        self._num_epochs = num_epochs
        self._every = every if tensorboard else 0
        self._events = None
        if not storage.is_uri(folder):  # TensorBoard's writer appends to a file, which an object store cannot
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(storage.join(folder, "tensorboard"), purge_step=first_epoch)

    def started(self) -> None:
        """Note that the first epoch begins."""
        self._status.write("RUNNING", "Starting Training Loop.")

    def epoch(self, figures: Mapping[str, Any], *, validated: bool) -> None:
        """Write the figures of one epoch everywhere."""
        epoch, step = int(figures["epoch"]), int(figures["step"])
        write_epoch(self._folder, figures)
        for name in SCALARS:
            if self._events is not None and figures.get(name) is not None:
                self._events.add_scalar(name, figures[name], epoch)
        train = {name: figures[name] for name in ("train_loss", "train_acc", "train_fpr")}
        self._status.write("RUNNING", "Train metrics generated.", kpi=train, epoch=epoch)
        if validated:
            names = ("val_loss", "val_acc", "val_fpr", "val_far")
            self._status.write(
                "RUNNING", "Eval metrics generated.", kpi={name: figures.get(name) for name in names}, epoch=epoch
            )
        left = self._num_epochs - 1 - epoch
        self._status.write(
            "RUNNING",
            "Training loop in progress",
            epoch=epoch,
            max_epoch=self._num_epochs,
            step=step,
            time_per_epoch=clock(figures["seconds"]),
            eta=clock(left * figures["seconds"]),
        )

    def watch(self, epoch: int, batches: Batches) -> Batches:
        """Return the same batches; the first pair of the first one is shown every few epochs, under TAO's tags."""
        return _Watched(batches, self._picture, epoch) if self._is_due(epoch) else batches

    def _picture(self, epoch: int, batch: Mapping[str, Tensor]) -> None:
        assert self._events is not None
        goldens = batch["golden"][0]
        many = goldens.ndim == 4
        self._events.add_image("image/compare_sample", batch["test"][0].numpy(), epoch)
        for number, golden in enumerate(goldens if many else goldens[None]):
            self._events.add_image(f"image/golden_sample{number if many else ''}", golden.numpy(), epoch)

    def histograms(self, epoch: int, network: nn.Module) -> None:
        """Write the distribution of every parameter every few epochs."""
        if self._events is None or not self._is_due(epoch):
            return
        for name, parameter in network.named_parameters():
            self._events.add_histogram(f"histogram/{name}", parameter.detach().float().cpu().numpy(), epoch)

    def finished(self) -> None:
        """Note that the last epoch is over and close the files."""
        self._status.write("RUNNING", "Training loop complete.")
        if self._events is not None:
            self._events.close()

    def _is_due(self, epoch: int) -> bool:
        return self._events is not None and bool(self._every) and epoch % self._every == 0


class _Watched:
    """Batches whose first one is shown to somebody on its way."""

    def __init__(self, batches: Batches, show: Callable[[int, Mapping[str, Tensor]], None], epoch: int) -> None:
        self._batches, self._show, self._epoch = batches, show, epoch

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        for number, batch in enumerate(self._batches):
            if number == 0:
                self._show(self._epoch, batch)
            yield batch

    def __len__(self) -> int:
        return len(self._batches)
