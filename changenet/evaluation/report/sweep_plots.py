"""The plots of a sweep as PNG bytes: blue is better, grey is worse, vermilion is the best trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from changenet.evaluation.report.plots import DEFECT_COLOUR, GOOD_COLOUR, INK, new_figure, say, to_png

_SHADES = LinearSegmentedColormap.from_list("better", [GOOD_COLOUR, "#d3dae1"])


@dataclass(frozen=True)
class Axis:
    """Where a key was searched, as an axis.

    Args:
        key: Path of the key.
        low: Its lower end (0 for a list).
        high: Its upper end (the last number of a list).
        log: Whether equal factors are equal distances.
        names: The values of a list, in order; None for a range.
    """

    key: str
    low: float
    high: float
    log: bool = False
    names: tuple[str, ...] | None = None

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 (low) to 1 (high); of a list by its number.

        >>> Axis("train.optim.lr", 1e-4, 1e-2, log=True).place(1e-3)
        0.5
        """
        low, high, here = (float(np.log10(each)) if self.log else each for each in (self.low, self.high, value))
        return 0.5 if high == low else (here - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places with their labels."""
        if self.names is not None:
            return [(self.place(number), name) for number, name in enumerate(self.names)]
        middle = (self.low * self.high) ** 0.5 if self.log else (self.low + self.high) / 2
        return [(self.place(value), f"{value:.3g}") for value in (self.low, middle, self.high)]


def parallel_plot(
    axes_of: Sequence[Axis],
    points: Sequence[Mapping[str, float]],
    objectives: Sequence[float],
    *,
    mode: Literal["min", "max"],
) -> bytes:
    """Return a line a trial over the searched keys and its rank by the objective.

    Args:
        axes_of: The searched keys.
        points: Of each trial its value (of a list its number) by key; a key without effect in it is left out.
        objectives: Of each trial.
        mode: Which way the objective is better.
    """
    figure, (axes,) = new_figure(width=max(7.0, 1.9 * (len(axes_of) + 1)), height=4.6)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(xlim=(-0.35, len(axes_of) + 0.35), ylim=(-0.06, 1.06), yticks=[])
    labels = [axis.key.rsplit(".", 1)[-1].replace("_", " ") for axis in axes_of] + ["rank (1 = best)"]
    axes.set_xticks(range(len(labels)), [_folded(label) for label in labels])
    count = len(objectives)
    if not count:
        say(axes, "no trial has an objective")
        return to_png(figure)
    order = np.argsort(objectives if mode == "min" else -np.asarray(objectives), kind="stable")
    rank_axis = Axis("rank", count, 1) if count > 1 else Axis("rank", 1, 1)
    for number, axis in enumerate((*axes_of, rank_axis)):
        axes.axvline(number, color=INK, linewidth=0.8)
        for place, label in [(0.5, "1")] if count == 1 and axis is rank_axis else axis.ticks:
            axes.text(number - 0.03, place, label, ha="right", va="center", fontsize=8, color=INK)
    for rank in range(count, 0, -1):  # the best on top
        point = points[order[rank - 1]]
        places = [axis.place(point[axis.key]) if axis.key in point else np.nan for axis in axes_of]
        places.append(rank_axis.place(rank))
        kept = np.flatnonzero(np.isfinite(places))
        best = rank == 1
        axes.plot(
            kept,
            np.asarray(places)[kept],
            color=DEFECT_COLOUR if best else _SHADES((rank - 1) / max(count - 1, 1)),
            linewidth=2.4 if best else 1.2,
            marker="o",
            markersize=4 if best else 3,
        )
    return to_png(figure)


def importance_plot(shares: Mapping[str, float]) -> bytes:
    """Return a bar a key; an empty mapping says that there are too few trials."""
    figure, (axes,) = new_figure(width=5.6, height=max(2.4, 0.9 + 0.42 * len(shares)))
    if not shares:
        say(axes, "too few trials to say")
        return to_png(figure)
    names = [key.rsplit(".", 1)[-1].replace("_", " ") for key in shares][::-1]
    axes.barh(names, list(shares.values())[::-1], color=GOOD_COLOUR, height=0.6)
    axes.set(xlabel="importance (PED-ANOVA, shares of 1)", xlim=(0, max(1.0, *shares.values())))
    axes.grid(visible=False, axis="y")
    return to_png(figure)


def curves_plot(
    curves: Mapping[str, Sequence[tuple[int, float]]], *, best: str, label: str, mode: Literal["min", "max"]
) -> bytes:
    """Return the objective of each trial by epoch.

    Args:
        curves: (epoch from 1, objective) of each trial, by its name.
        best: The trial to point out.
        label: What the objective is called.
        mode: Which way it is better.
    """
    figure, (axes,) = new_figure(width=5.6, height=3.9)
    if not any(curves.values()):
        say(axes, "no trial was validated")
        return to_png(figure)
    for name, curve in curves.items():
        if curve and name != best:
            axes.plot(*zip(*curve, strict=True), color="#8895a3", linewidth=1, marker=".", markersize=4, alpha=0.7)
    if curves.get(best):
        axes.plot(
            *zip(*curves[best], strict=True), color=DEFECT_COLOUR, linewidth=2.2, marker="o", markersize=4, label=best
        )
        axes.legend(title="best trial", frameon=False)
    _spread(axes, [value for curve in curves.values() for _, value in curve])
    axes.set(xlabel="epoch", ylabel=f"{label}\n({'less' if mode == 'min' else 'more'} is better)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return to_png(figure)


def _spread(axes: Axes, values: Sequence[float]) -> None:
    """Give small and large counts room: false calls fall by factors."""
    if min(values) >= 0 and max(values) > 20 * (1 + min(values)):
        axes.set_yscale("symlog", linthresh=1.0)


def _folded(label: str) -> Any:
    words, lines = label.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 14 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
