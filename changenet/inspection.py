"""The one road from pictures to a verdict: decode, combine the lights, run the network, compare with the threshold.

inspector = changenet.load("results/export/bundle")
inspector.inspect("board_17/C12.jpg", "golden/C12.jpg").prediction
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from changenet.bundle import Bundle
from changenet.data.images import MAX_PIXELS, PictureSource, decode_picture
from changenet.data.lights import Pixels
from changenet.description import BINARY_CLASSES, ModelDescription
from changenet.engines import Engine, load_engine
from changenet.engines.choice import self_test
from changenet.engines.interface import probabilities
from changenet.errors import DataError
from changenet.evaluation.metrics import predict
from changenet.signing import KeySource

if TYPE_CHECKING:
    from changenet.training.checkpoint import Describe

Picture: TypeAlias = PictureSource | Mapping[str, PictureSource]
"""A path, encoded bytes, a Pillow picture or an array (H, W[, 3]); with several lights a mapping of light to these."""

Goldens: TypeAlias = Picture | Sequence[Picture]

BATCH = 16


@dataclass(frozen=True)
class Verdict:
    """The decision on one pair.

    Args:
        score: How different the pair is: a distance >= 0 (euclidean) or a probability 0-1 (learnable).
        threshold: The pair fails when its score is strictly greater.
        prediction: `PASS` or `FAIL`; with real classes `PASS` or the class of the defect.
    """

    score: float
    threshold: float
    prediction: str

    @property
    def passed(self) -> bool:
        """Whether the part is good; a score that is no number is not."""
        return self.score <= self.threshold


class Inspector:
    """A loaded network that judges pairs; make one with `Inspector.load` or `changenet.load`.

    Args:
        engine: Runs the network.
        description: What the network says about itself; its threshold decides.
        bundle: Where the network came from, if from a bundle.
    """

    def __init__(self, engine: Engine, description: ModelDescription, *, bundle: Bundle | None = None) -> None:
        self.engine = engine
        self.description = description
        self.bundle = bundle

    @classmethod
    def load(
        cls,
        path: str,
        engine: str = "auto",
        *,
        encryption_key: str | None = None,
        trusted_keys: Sequence[KeySource] = (),
        threads: int | None = None,
        device: str | None = None,
        precision: str = "fp32",
        compiled: bool = False,
        describe: Describe | None = None,
    ) -> Inspector:
        """Open a checkpoint or a bundle: arguments and errors as `changenet.engines.load_engine`."""
        loaded, description, bundle = load_engine(
            path,
            engine,
            encryption_key=encryption_key,
            trusted_keys=trusted_keys,
            threads=threads,
            device=device,
            precision=precision,
            compiled=compiled,
            describe=describe,
        )
        return cls(loaded, description, bundle=bundle)

    @property
    def engine_name(self) -> str:
        """The runtime: `torch`, `onnxruntime` or `tensorrt`."""
        return self.engine.name

    def with_threshold(self, value: float) -> Inspector:
        """Return an inspector that shares the network and decides by another threshold."""
        threshold = replace(self.description.threshold, value=value, policy="margin", target=None, interval=None)
        return Inspector(self.engine, self.description.with_threshold(threshold), bundle=self.bundle)

    def inspect(self, test: Picture, golden: Goldens) -> Verdict:
        """Judge one pair.

        Args:
            test: The picture of the part.
            golden: The picture of a good one, or as many as the network compares with; fewer are used in turn.

        Raises:
            DataError: A picture is missing or unreadable, or lights or goldens do not fit: all problems at once.
        """
        (verdict,) = self.inspect_arrays(*(array[None] for array in self._prepare_pair(test, golden)))
        return verdict

    def inspect_many(self, pairs: Iterable[tuple[Picture, Goldens]], *, batch_size: int = BATCH) -> list[Verdict]:
        """Judge pairs, in their order (raises as `inspect`, naming the pair by its number, from 0)."""
        numbered, verdicts = enumerate(pairs), []
        while batch := list(islice(numbered, batch_size)):
            prepared, errors = [], []
            for number, (test, golden) in batch:
                try:
                    prepared.append(self._prepare_pair(test, golden, where=f"pair {number}: "))
                except DataError as error:
                    errors.append(error)
            _raise_all(errors)
            tests, goldens = zip(*prepared, strict=True)
            verdicts += self.inspect_arrays(np.stack(tests), np.stack(goldens))
        return verdicts

    def inspect_prepared(self, test: Pixels, goldens: Sequence[Pixels]) -> Verdict:
        """Judge one pair of pictures that `prepare_picture` returned; goldens as for `inspect`."""
        (verdict,) = self.inspect_arrays(test[None], self._stack_goldens(goldens)[None])
        return verdict

    def inspect_arrays(self, test: Pixels, golden: Pixels) -> list[Verdict]:
        """Judge prepared pairs: test uint8 (B, 3, H, W), golden (B, 3, H, W) or (B, N, 3, H, W)."""
        output = self._output(test, golden)
        return self.verdicts(output) if output is not None else []

    def score_arrays(self, test: Pixels, golden: Pixels) -> NDArray[np.float32]:
        """Return the scores (B,) of prepared pairs (shapes as `inspect_arrays`)."""
        output = self._output(test, golden)
        return self.engine.scores(output) if output is not None else np.zeros(0, np.float32)

    def verdicts(self, output: NDArray[np.float32]) -> list[Verdict]:
        """Decide on the engine's output: distances (B,) or logits (B, C)."""
        # The shortest decimals that name the float32 score: the number that a CSV file or JSON shows.
        scores = [float(str(score)) for score in self.engine.scores(output)]
        real_classes = self.description.classes != BINARY_CLASSES
        predictions = self.decide(scores, probabilities(output) if real_classes else None)
        threshold = self.description.threshold.value
        return [Verdict(*each) for each in zip(scores, [threshold] * len(scores), predictions, strict=True)]

    def decide(
        self, scores: Sequence[float] | NDArray[np.floating], chances: NDArray[np.float32] | None = None
    ) -> list[str]:
        """Return the prediction for each score; with class probabilities (B, C) the class of a defect."""
        decided = predict(scores, self.description.threshold, classes=self.description.classes, probabilities=chances)
        return [str(each) for each in decided]

    def prepare_picture(self, picture: Picture, *, where: str = "", max_pixels: int = MAX_PIXELS) -> Pixels:
        """Return the network's input for one picture: uint8 (3, H, W).

        Args:
            picture: One picture, or a mapping of every light to its picture.
            where: What errors call it.
            max_pixels: Limit on the pixels of each light, before it is decoded.

        Raises:
            DataError: A light is missing or unknown, or its picture cannot be used: all problems at once. When only one
                picture is wrong, the `PictureError` that says what kind of trouble it is.
        """
        lights = self.description.layout.lights
        if lights != ("",) and not isinstance(picture, Mapping):
            fix = f"Give a mapping of each light to its picture: {', '.join(lights)}."
            raise DataError("one picture for a network that compares lights", where=where, fix=fix)
        by_light = picture if isinstance(picture, Mapping) else {"": picture}
        fix = f"Give {', '.join(map(repr, lights))}."
        missing = [f"no picture of the light {light!r}" for light in lights if light not in by_light]
        unknown = [f"there is no light {light!r}" for light in by_light if light not in lights]
        errors = [DataError(what, where=where, fix=fix) for what in missing + unknown]
        decoded = []
        for light in lights:
            if light in by_light:
                source = by_light[light]
                path = str(source) if isinstance(source, (str, os.PathLike)) else ""
                place = " ".join(filter(None, (where, light, path)))
                try:
                    decoded.append(decode_picture(source, where=place, max_pixels=max_pixels))
                except DataError as error:
                    errors.append(error)
        _raise_all(errors)
        return self.description.layout.combine(decoded)

    def self_test(self) -> float:
        """Score the pairs stored in the bundle and return the largest error; 0 for a checkpoint, which has none.

        Raises:
            EngineError: This machine computes other scores than the one that exported the bundle.
        """
        if self.bundle is None:
            return 0.0
        return self_test(self.engine, self.bundle)

    def _prepare_pair(self, test: Picture, golden: Goldens, *, where: str = "") -> tuple[Pixels, Pixels]:
        many = cast("list[Picture]", list(golden) if isinstance(golden, (list, tuple)) else [golden])
        prepared, errors = [], []
        for role, picture in [("test", test), *(("golden", each) for each in many)]:
            try:
                prepared.append(self.prepare_picture(picture, where=f"{where}{role}"))
            except DataError as error:
                errors.append(error)
        _raise_all(errors)
        return prepared[0], self._stack_goldens(prepared[1:], where=where)

    def _stack_goldens(self, goldens: Sequence[Pixels], *, where: str = "") -> Pixels:
        """Return (3, H, W), or (N, 3, H, W) for a network that compares with N goldens."""
        wanted = self.description.num_golden
        if not 1 <= len(goldens) <= wanted:
            what = f"{len(goldens)} goldens for a network that compares with {wanted}"
            raise DataError(what, where=f"{where}golden", fix=f"Give 1 to {wanted}." if wanted > 1 else "Give one.")
        return goldens[0] if wanted == 1 else np.stack(list(islice(cycle(goldens), wanted)))

    def _output(self, test: Pixels, golden: Pixels) -> NDArray[np.float32] | None:
        """Return the engine's output, None for no pairs."""
        shape, wanted = self.description.layout.shape, self.description.num_golden
        if golden.ndim == 5 and golden.shape[1] == wanted == 1:
            golden = golden[:, 0]
        expected = (len(test), *shape) if wanted == 1 else (len(test), wanted, *shape)
        for name, array, fitting in (("test", test, (len(test), *shape)), ("golden", golden, expected)):
            if array.dtype != np.uint8 or array.shape != fitting:
                what = f"{name} is an array {array.shape} of {array.dtype}, not {fitting} of uint8"
                raise DataError(what, fix="Use prepare_picture.")
        return self.engine.output(test, golden) if len(test) else None


def _raise_all(errors: Sequence[DataError]) -> None:
    """Raise the one error as it is, several as one."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError([problem for error in errors for problem in error.problems])
