"""The models of one replica: pictures are decoded in a few threads, each engine runs in a thread of its own.

The event loop only waits; so health routes and the page answer while pictures are compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from changenet.data.kinds import Kind, PictureError
from changenet.errors import CheckpointError, DataError
from serve.form import InspectionForm, Picture, part_name
from serve.metrics import Metrics
from serve.problems import HttpError
from serve.schemas import Input, ModelFacts, ThresholdFacts
from serve.settings import ServiceSettings

if TYPE_CHECKING:
    from changenet.inspection import Inspector, Verdict

Result = TypeVar("Result")

# Beginnings of the files that `changenet.data.images` reads; what starts otherwise was never meant as a picture.
_SIGNATURES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\x00", b"MM\x00*", b"RIFF"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
)

NOT_A_PICTURE, PICTURE_TOO_LARGE, UNREADABLE_PICTURE = "not-a-picture", "picture-too-large", "unreadable-picture"
PICTURE_PROBLEMS = (NOT_A_PICTURE, PICTURE_TOO_LARGE, UNREADABLE_PICTURE)


@dataclass(frozen=True)
class Inspected:
    """A verdict and the seconds it took."""

    verdict: Verdict
    decode_seconds: float
    engine_seconds: float


class ServedModel:
    """One model, loaded and ready.

    Args:
        name: The name that clients use.
        version: The bundle's version.
        inspector: Decides.
        decoders: Threads for decoding, shared by all models.
        picture_pixels: Limit on the pixels of an uploaded picture.
        metrics: Counted with.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        inspector: Inspector,
        decoders: ThreadPoolExecutor,
        picture_pixels: int,
        metrics: Metrics | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.inspector = inspector
        self._decoders = decoders
        self._picture_pixels = picture_pixels
        self._metrics = metrics or Metrics()
        self._engine = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{name}")

    async def inspect(self, form: InspectionForm) -> Inspected:
        """Decide one pair.

        Raises:
            HttpError: A picture is none (415), too large (413) or unreadable (400).
        """
        started = time.perf_counter()
        test, *goldens = await asyncio.gather(
            self._decode(form.test, "test"), *(self._decode(golden, "golden") for golden in form.goldens)
        )
        decoded = time.perf_counter()
        verdict = await _in(self._engine, self._compare_now, test, goldens)
        return Inspected(verdict, decoded - started, time.perf_counter() - decoded)

    def _compare_now(self, test: NDArray[np.uint8], goldens: list[NDArray[np.uint8]]) -> Verdict:
        started = time.perf_counter()
        verdict = self.inspector.inspect_prepared(test, goldens)
        self._metrics.engine_call(self.name, pairs=1, seconds=time.perf_counter() - started)
        return verdict

    async def _decode(self, picture: Picture, role: str) -> NDArray[np.uint8]:
        return await _in(self._decoders, self._decode_now, picture, role)

    def _decode_now(self, picture: Picture, role: str) -> NDArray[np.uint8]:
        for light, content in picture.items():
            if content and not content.startswith(_SIGNATURES):
                detail = f"The part {part_name(role, light)!r} is not a picture."
                raise HttpError(415, NOT_A_PICTURE, detail)
        try:
            return self.inspector.prepare_picture(picture, where=role, max_pixels=self._picture_pixels)
        except DataError as error:
            problems = [str(problem) for problem in error.problems]
            if isinstance(error, PictureError) and error.kind is Kind.TOO_LARGE:
                raise HttpError(413, PICTURE_TOO_LARGE, problems[0]) from error
            raise HttpError(400, UNREADABLE_PICTURE, " ".join(problems), problems=problems) from error

    def facts(self) -> ModelFacts:
        """Return what clients may know about the model."""
        description = self.inspector.description
        threshold = description.threshold
        return ModelFacts(
            name=self.name,
            version=self.version,
            engine=self.inspector.engine_name,
            difference_module=description.difference_module,
            backbone=description.network["backbone"],
            classes=list(description.classes),
            input=Input(
                **description.layout.to_dict(), mean=description.network["mean"], std=description.network["std"]
            ),
            num_golden=description.num_golden,
            threshold=ThresholdFacts(**asdict(threshold)),
            validation_scores=description.validation_scores,
            metrics=description.metrics,
            versions=description.versions,
            data_hash=description.data_hash,
        )


def load_models(settings: ServiceSettings, metrics: Metrics) -> dict[str, ServedModel]:
    """Load every model of the service, under its name, and let each pass its self-test.

    Raises:
        CheckpointError: A bundle is missing, damaged, locked, or not signed with a trusted key.
        EngineError: An engine cannot run on this machine, or computes other scores than at export.
    """
    from changenet.inspection import Inspector  # loads torch

    decoders = ThreadPoolExecutor(settings.limits.decoders, thread_name_prefix="decode")
    key = settings.encryption_key.get_secret_value() if settings.encryption_key else None
    models = {}
    for model in settings.models:
        inspector = Inspector.load(model.bundle, model.engine, encryption_key=key, trusted_keys=settings.trusted_keys)
        if inspector.bundle is None:
            raise CheckpointError("is a checkpoint, not a bundle", where=model.bundle, fix="Run changenet export.")
        inspector.self_test()
        models[model.name] = ServedModel(
            name=model.name,
            version=inspector.bundle.version,
            inspector=inspector,
            decoders=decoders,
            picture_pixels=settings.limits.picture_pixels,
            metrics=metrics,
        )
    return models


async def _in(threads: ThreadPoolExecutor, function: Callable[..., Result], *arguments: object) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)
