"""The trained network that `evaluate` and `inference` name, the rows it is to score, and the threshold to use.

Architecture, preprocessing, lights and threshold come from the checkpoint or bundle. What the spec says about them must
not contradict it; what it leaves open does not matter. For a TAO checkpoint
the spec decides, completed from the one inside the file.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

import torch

from changenet import factory, storage
from changenet.adoption import SpecDescribes
from changenet.agreement import contradictions
from changenet.bundle import MANIFEST, is_bundle
from changenet.data.pairs import PairSource
from changenet.description import ModelDescription, Threshold
from changenet.engines import PRECISIONS
from changenet.engines.tensorrt_files import RUNTIME as TENSORRT
from changenet.engines.tensorrt_files import files_of, open_files
from changenet.errors import ChangeNetError, EngineError, Problem, SpecError
from changenet.evaluation.thresholds import fit_threshold
from changenet.inspection import Inspector
from changenet.spec import Experiment
from changenet.spec.actions import runs_engine_file
from changenet.spec.keys import CLASSIFY, DATA
from changenet.training.checkpoint import package_versions
from ray_jobs import cluster
from ray_jobs.checkpoint_path import checkpoint_path
from ray_jobs.score_parts import ScoreParts, forget_parts
from ray_jobs.scorer import ModelFile
from ray_jobs.scoring import Scored, score_rows
from ray_jobs.shared_storage import check_shared
from ray_jobs.threshold_choice import choose_threshold
from ray_jobs.workers import Workers, plan_workers

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished-scores"  # hidden: a folder that a user makes has another name


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
        self._unfinished = storage.join(experiment.action_dir(action), UNFINISHED)
        path = storage.absolute(checkpoint_path(experiment, action))
        describe = SpecDescribes(experiment, path)
        section = getattr(experiment, action)
        self.file = ModelFile(
            path,
            TENSORRT if runs_engine_file(section) else section.engine,
            experiment.encryption_key,
            describe=describe,
            precision=section.precision,
            compiled=section.compile,
        )
        self.engine, self.precision, self.description, self._version = self._open()
        if self.engine == TENSORRT:
            self._check_gpu()
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
        engine, precision, version = _facts(inspector)
        return engine, precision, inspector.description, version

    def _check_gpu(self) -> None:
        """Refuse TensorRT where no worker will have a GPU, before Ray starts and pictures are looked at."""
        use_gpu = getattr(self._experiment, self._action).ray.use_gpu
        if use_gpu is False or (cluster.will_start_here(self._address) and not torch.cuda.is_available()):
            raise self._no_gpu()

    def _no_gpu(self) -> EngineError:
        what = "TensorRT runs on GPUs, and no worker has one"
        keys = f"{self._action}.engine and {self._action}.trt_engine"
        fix = f"Run on a cluster with GPUs, or name a checkpoint or a bundle and leave {keys} out."
        return EngineError(what, where=self.file.path, fix=fix)

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
        batch_size, workers = self._experiment.batch_size(self._action), self._workers
        model = replace(self.file, engine=self.engine, threshold=threshold.value if threshold else None)
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
        forget_parts(self._unfinished)

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
        asked_gpus = self._experiment.num_gpus(self._action) * section.num_nodes
        workers = plan_workers(section.ray, asked_gpus=asked_gpus, together=False)
        if self.engine == TENSORRT and not workers.use_gpu:
            raise self._no_gpu()
        if workers.use_gpu and (self.engine == TENSORRT or (section.engine == "auto" and is_bundle(self.file.path))):
            self._open_where_it_runs()
        return workers

    def _open_where_it_runs(self) -> None:
        """Open the network once on a GPU of the cluster; the engine that `auto` takes there is that of all workers.

        What fails in a worker of Ray Data is no error that a user can read.
        """
        import ray

        try:
            found = ray.get(ray.remote(num_cpus=0, num_gpus=1)(_open_on_gpu).remote(self.file))
        except ChangeNetError as error:  # Ray's own, which is one of ours, too
            if self.engine == TENSORRT:
                raise EngineError(error.problems) from None
            return  # ONNX Runtime: the workers say why it takes their CPUs
        if self.engine != TENSORRT:
            self.engine, self.precision, self._version = found

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


def _open_on_gpu(file: ModelFile) -> tuple[str, str, str]:
    return _facts(file.load(device="cuda"))


def _facts(inspector: Inspector) -> tuple[str, str, str]:
    """Return the engine, its precision, and the version of the runtime."""
    name, bundle = inspector.engine_name, inspector.bundle
    if name == TENSORRT:
        version = files_of(bundle).tag.version if bundle else ""
    else:
        version = importlib.import_module(name).__version__
    return name, inspector.engine.precision, version


def _known(description: ModelDescription, _: object) -> ModelDescription:
    return description
