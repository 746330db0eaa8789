"""The trained network that `evaluate` and `inference` name, the rows it is to score, and the threshold to use.

Architecture, preprocessing, lights and threshold come from the checkpoint or bundle. What the spec says about them must
not contradict it; what it leaves open does not matter. For a TAO checkpoint
the spec decides, completed from the one inside the file.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

from changenet import factory, storage
from changenet.adoption import SpecDescribes
from changenet.agreement import contradictions
from changenet.bundle import MANIFEST, is_bundle
from changenet.data.pairs import PairSource
from changenet.description import ModelDescription, Threshold
from changenet.engines import PRECISIONS
from changenet.engines.tensorrt import RUNTIME as TENSORRT
from changenet.engines.tensorrt import open_files
from changenet.errors import ChangeNetError, CheckpointError, EngineError, Problem, SpecError
from changenet.evaluation.thresholds import fit_threshold
from changenet.spec import Experiment
from changenet.spec.actions import Scoring, runs_engine_file
from changenet.training.checkpoint import package_versions
from ray_jobs import cluster
from ray_jobs.score_parts import ScoreParts
from ray_jobs.scorer import ModelFile
from ray_jobs.scoring import Scored, score_rows
from ray_jobs.shared_storage import check_shared
from ray_jobs.workers import Workers, plan_workers

logger = logging.getLogger(__name__)

DATA = "dataset.classify"
CLASSIFY = "model.classify"


class TrainedNetwork:
    """The checkpoint or bundle of `evaluate` or `inference`, opened once so that what is wrong with it is said first.

    Ray is joined when the first rows are scored.

    Args:
        experiment: The spec.
        action: Whose checkpoint, engine, batch size and workers are meant.
        address: Ray cluster; None for `RAY_ADDRESS` or a local Ray.

    Attributes:
        file: How workers open it.
        engine: The engine that runs it.
        precision: Of its weights.
        description: What it says about itself.

    Raises:
        SpecError: The spec names no checkpoint, or contradicts it: every contradiction.
        CheckpointError: It cannot be read.
        EngineError: The engine asked for cannot run it.
    """

    def __init__(
        self, experiment: Experiment, action: Literal["evaluate", "inference"], *, address: str | None = None
    ) -> None:
        self._experiment, self._action, self._address = experiment, action, address
        self._unfinished = storage.join(experiment.action_dir(action), "unfinished")
        path = storage.absolute(checkpoint_path(experiment, action))
        describe = SpecDescribes(experiment, path)
        section = getattr(experiment, action)
        self.file = ModelFile(
            path,
            section.engine,
            experiment.encryption_key,
            describe=describe,
            precision=section.precision,
            compiled=section.compile,
        )
        self.engine, self.precision, self.description, self._version = self._open()
        problems = list(contradictions(experiment, self.description, path))
        if section.is_quantized and self.precision in PRECISIONS:
            what = f"is true, but {path} is not quantized"
            problems.append(Problem(what, f"{action}.is_quantized", "Name what changenet quantize wrote."))
        if problems:
            raise SpecError(problems)
        # Workers are told what was found, so that all of them hold the same and none says it again.
        self.file = replace(self.file, describe=partial(_known, self.description))

    def _open(self) -> tuple[str, str, ModelDescription, str]:
        """Return the engine, its precision, what the network says about itself, and the version of the runtime."""
        if self.file.runs_tensorrt:  # perhaps only on a machine of the cluster that has a GPU
            files, _ = open_files(self.file.path, encryption_key=self._experiment.secret())
            return TENSORRT, files.tag.precision, files.description, files.tag.version
        inspector = self.file.load()
        version = importlib.import_module(inspector.engine_name).__version__
        return inspector.engine_name, inspector.engine.precision, inspector.description, version

    def rows(self, split: Literal["validation", "test", "infer"]) -> PairSource:
        """Return the rows of a split, whose pictures are prepared as the network was trained.

        Labels are required but for `infer`. The suffix of the files is the network's unless the spec gives one.

        Raises:
            SpecError: The spec does not name the split.
            DataError: The CSV file is wrong, or `images_dir` is not a folder.
        """
        data = self._experiment.dataset.classify
        return factory.pair_source(
            self._experiment,
            split,
            self.description.layout,
            image_ext=None if "image_ext" in data.model_fields_set else self.description.image_ext,
            num_golden=self.description.num_golden,
        )

    def score(self, source: PairSource, *, threshold: Threshold | None = None, title: str) -> Scored:
        """Score rows on the cluster and decide by the threshold (None: the network's own).

        What an interrupted run with the same network, rows and settings scored is not scored again; see `finish`.
        """
        model = replace(self.file, threshold=threshold.value if threshold else None)
        batch_size, workers = self._experiment.batch_size(self._action), self._workers
        described = self.description.to_dict()
        depends_on = {
            "model": storage.file_sha256(storage.join(model.path, MANIFEST) if is_bundle(model.path) else model.path),
            # A TAO checkpoint does not hold these itself.
            **{name: described[name] for name in ("network", "layout", "classes", "threshold")},
            "decided_by": model.threshold,
            "rows": storage.file_sha256(source.annotations.path),
            "gpu": workers.use_gpu,
            "precision": self.precision,
            "compiled": model.compiled,
            "versions": {**package_versions(), self.engine: self._version},
        }
        parts = ScoreParts(self._unfinished, batch_size=batch_size, depends_on=depends_on)
        return score_rows(source, model=model, batch_size=batch_size, workers=workers, parts=parts, title=title)

    def finish(self) -> None:
        """Forget the scores that were kept on the way, after the results are written."""
        storage.remove_folder(self._unfinished)

    def threshold(self) -> Threshold:
        """Return the threshold to decide by (`choose_threshold`), fitted anew where the spec asks for another."""
        return choose_threshold(self._experiment, self.description, fit=self._fit)

    @cached_property
    def _workers(self) -> Workers:
        cluster.connect(self._address)
        split = "test" if self._action == "evaluate" else "infer"
        section = getattr(self._experiment, self._action)
        key = "trt_engine" if runs_engine_file(section) else "checkpoint"
        check_shared(self._experiment, (split,), read={f"{self._action}.{key}": self.file.path}, written={})
        workers = plan_workers(section.ray, asked_gpus=self._experiment.num_gpus(self._action) * section.num_nodes)
        if self.engine == TENSORRT and not workers.use_gpu:
            what = "TensorRT runs on GPUs, and no worker has one"
            fix = f"Run on a cluster with GPUs, or name a checkpoint or a bundle and leave {self._action}.engine out."
            raise EngineError(what, where=self.file.path, fix=fix)
        if self.engine == TENSORRT:
            self._try_on_a_gpu()
        return workers

    def _try_on_a_gpu(self) -> None:
        """Open the engine once where it will run: what fails in a worker of Ray Data is no error that a user can read."""
        import ray

        try:
            ray.get(ray.remote(num_cpus=0, num_gpus=1)(_open_on_gpu).remote(self.file))
        except ChangeNetError as error:  # Ray's own, which is one of ours, too
            raise EngineError(error.problems) from None

    def _fit(self, target: float, margin: float) -> Threshold:
        if not self._experiment.dataset.classify.validation_dataset.csv_path:
            stored = self.description.threshold
            raise SpecError(
                f"asks for a recall of {target:g}; the network's own threshold is {stored.value:g} "
                f"(policy {stored.policy}), and there is no validation set to fit another",
                where="evaluate.threshold",
                fix=f"Name {DATA}.validation_dataset, leave the key out, or write {CLASSIFY}.eval_margin.",
            )
        source = self.rows("validation")
        scored = self.score(source, title="Fitting the threshold")
        scored.raise_errors(source.annotations)
        threshold = fit_threshold(
            scored.scores, source.annotations.is_defect, policy="recall", target=target, margin=margin
        )
        logger.info("Threshold %g fitted on %s.", threshold.value, source.annotations.path)
        return threshold


def _open_on_gpu(file: ModelFile) -> None:
    file.load(device="cuda")


def _known(description: ModelDescription, _: object) -> ModelDescription:
    return description


def checkpoint_path(experiment: Experiment, action: Literal["evaluate", "inference", "export", "quantize"]) -> str:
    """Return the checkpoint (or bundle, or TensorRT engine) that an action's section names.

    Raises:
        SpecError: It names none.
        CheckpointError: There is none.
    """
    section = getattr(experiment, action)
    name = "model_path" if action == "quantize" else "checkpoint"
    if isinstance(section, Scoring) and runs_engine_file(section):
        name = "trt_engine"
    key = f"{action}.{name}"
    path: str | None = getattr(section, name)
    if not path:
        example = storage.join(experiment.action_dir("train"), "model_best.pth")
        raise SpecError("not given", where=key, fix=f"Name a checkpoint or a bundle folder, such as {example}.")
    if not storage.exists(path):
        fix = "Run changenet train first, or name another file."
        raise CheckpointError(f"there is no {path}", where=key, fix=fix)
    return path


def choose_threshold(
    experiment: Experiment, description: ModelDescription, *, fit: Callable[[float, float], Threshold]
) -> Threshold:
    """Return the threshold to decide by: what the spec writes beats what the network carries.

    A written `model.classify.eval_margin` is used as it is. A written recall target that is not the one the network's
    threshold was fitted for is fitted anew, on validation, never on the set that is judged.

    Args:
        experiment: The spec.
        description: The network's own threshold.
        fit: Fits a threshold on validation for (target, margin to fall back to).
    """
    stored, choice = description.threshold, experiment.evaluate.threshold
    if not experiment.threshold_written:
        if stored.policy == "margin" and not description.metrics:
            advice = f"Write {CLASSIFY}.eval_margin, or evaluate.threshold.policy: recall to fit one on validation."
            logger.warning("The network has no fitted threshold: %g decides. %s", stored.value, advice)
        return stored
    margin = _margin(experiment, description)
    if experiment.threshold_policy == "margin":
        if experiment.model.classify.eval_margin is None and stored.policy == "margin":
            return stored
        return Threshold(margin, "margin")
    target = choice.target if choice.target is not None else stored.target or 1.0
    if stored.policy == "recall" and stored.target == target:
        return stored
    return fit(target, margin)


def _margin(experiment: Experiment, description: ModelDescription) -> float:
    """Return the written margin, or the default of the network's difference module."""
    written = experiment.model.classify.eval_margin
    if description.difference_module == "euclidean":
        trained = description.spec.get("model", {}).get("classify", {})
        return float(trained.get("train_margin_euclid", 2.0)) / 2 if written is None else written
    if written is not None and written > 1:
        logger.warning("%s.eval_margin is %g, but scores are probabilities: 0.5 is used.", CLASSIFY, written)
        return 0.5
    return 0.5 if written is None else written
