"""The whole spec of an experiment, frozen, with the values that follow from others."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from changenet.description import BINARY_CLASSES, PASS
from changenet.errors import Problem, SpecError
from changenet.model.catalogue import IMAGENET_MEAN, IMAGENET_STD
from changenet.spec import encoders
from changenet.spec.actions import Evaluate, Export, GenTrtEngine, Inference, Scoring
from changenet.spec.augmentation import Channels
from changenet.spec.dataset import CalibrationPairs, Dataset, Split
from changenet.spec.model import Head, Model
from changenet.spec.quantize import Mode, Quantize
from changenet.spec.section import Section
from changenet.spec.serve import Serve
from changenet.spec.train import Loss, Train
from changenet.spec.wandb import Wandb
from changenet.storage import join

OLD_STD = (0.226, 0.226, 0.226)  # what TAO's user interface writes
LARGER_IS_BETTER = ("acc", "auroc", "precision")


class Experiment(Section):
    """An experiment: every key of the spec file, checked, with defaults filled in.

    A field that is None follows from others; the properties say what it is then. `load_spec` makes experiments.

    >>> Experiment().loss
    'ce'
    """

    null_is_unset: ClassVar[frozenset[str]] = frozenset({"results_dir"})

    task: Literal["classify", "segment"] = Field(
        default="classify", description="classify; segment is not available in this version."
    )
    results_dir: str = Field(default="./results", description="Every action writes to results_dir/ACTION.")
    encryption_key: SecretStr | None = Field(
        default=None,
        description="Passphrase for model files; best as ${oc.env:NAME} or ${file:PATH}. Never written anywhere.",
    )
    model: Model = Model()
    dataset: Dataset = Dataset()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    inference: Inference = Inference()
    export: Export = Export()
    gen_trt_engine: GenTrtEngine = GenTrtEngine()
    quantize: Quantize = Quantize()
    serve: Serve = Serve()
    model_name: str = Field(default="visual_changenet", description="Name of the network in TAO's launcher.")
    wandb: Wandb = Wandb()

    @field_validator("results_dir", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return cls.model_fields["results_dir"].default if value == "" else value

    def public(self) -> dict[str, Any]:
        """Return plain values without secrets, from which `from_public` rebuilds the experiment."""
        return self.model_dump(mode="json", exclude={"encryption_key"})

    @staticmethod
    def from_public(values: dict[str, Any]) -> Experiment:
        """Rebuild what `public` took apart; what was not written stays unset."""
        from changenet.spec.keys import without_defaults

        return Experiment.model_validate(without_defaults(values))

    def secret(self) -> str | None:
        """Return the passphrase in clear text, or None."""
        return self.encryption_key.get_secret_value() if self.encryption_key else None

    def action_dir(self, action: str) -> str:
        """Return the output folder of an action: its own `results_dir`, else `results_dir/ACTION`.

        >>> Experiment(results_dir="/r").action_dir("train")
        '/r/train'
        """
        section = getattr(self, action, None)
        return getattr(section, "results_dir", None) or join(self.results_dir, action)

    def files(self, *splits: str) -> tuple[Split | CalibrationPairs, ...]:
        """Return the CSV file and the folder of pictures of `train`, `validation`, `test`, `infer` or `calibration` sets.

        Raises:
            SpecError: They are not given.
        """
        data = self.dataset.classify
        sections = {
            name: "quant_calibration_dataset" if name == "calibration" else f"{name}_dataset" for name in splits
        }
        found: dict[str, Split | CalibrationPairs] = {
            f"dataset.classify.{section}": getattr(data, section) for section in sections.values()
        }
        missing = [
            Problem("not given", f"{key}.{name}", "Name it.")
            for key, files in found.items()
            for name in ("csv_path", "images_dir")
            if not getattr(files, name)
        ]
        if missing:
            raise SpecError(missing)
        return tuple(found.values())

    @property
    def loss(self) -> Loss:
        """The loss: what fits the difference module unless it is written."""
        return self.train.classify.loss or ("ce" if self.learnable else "contrastive")

    @property
    def learnable(self) -> bool:
        """Whether a classifier compares; otherwise a distance does."""
        return self.model.classify.difference_module == "learnable"

    @property
    def classes(self) -> tuple[str, ...]:
        """The meaning of the outputs, PASS first; `("PASS", "defect")` unless real classes are listed."""
        listed = self.dataset.classify.classes
        if listed is None:
            return BINARY_CLASSES
        return listed if PASS in listed else (PASS, *listed)

    @property
    def num_classes(self) -> int:
        """Width of the classifier's output."""
        return len(self.classes) if self.dataset.classify.classes else self.dataset.classify.num_classes or 2

    @property
    def lights(self) -> tuple[str, ...]:
        """File suffixes of the lights, in order; `("",)` for one picture without suffix."""
        return tuple(self.dataset.classify.input_map or ("",))

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows in which the lights are laid out."""
        data = self.dataset.classify
        if len(self.lights) > 1 and data.concat_type == "grid":
            return data.grid_map.x, data.grid_map.y
        return 1, len(self.lights)

    @property
    def light_size(self) -> tuple[int, int]:
        """Width and height of one light, in pixels."""
        data, side = self.dataset.classify, encoders.known_facts(self.model.backbone.type).default_side
        return data.image_width or side, data.image_height or side

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of all lights together, in pixels."""
        (width, height), (columns, rows) = self.light_size, self.grid
        return height * rows, width * columns

    @property
    def statistics(self) -> tuple[Channels | None, Channels | None]:
        """Mean and deviation of the channels; None where the encoder's own are used.

        ImageNet's are what TAO's specs write without a thought. With a C-RADIO encoder they mean its own (CLIP's), as in
        TAO 7.3 (reference 3.5).
        """
        written = self.dataset.classify.augmentation_config
        mean, std = written.rgb_input_mean, written.rgb_input_std
        if "radio" in self.model.backbone.type and _near(mean, IMAGENET_MEAN) and _near(std, IMAGENET_STD, OLD_STD):
            return None, None
        return mean, std

    @property
    def head(self) -> Head:
        """The head: the encoder's own (pooled for timm's) unless it is written."""
        return self.model.classify.head or encoders.known_facts(self.model.backbone.type).head

    @property
    def eval_margin(self) -> float:
        """The decision threshold of policy `margin`, in score units."""
        written = self.model.classify.eval_margin
        if not self.learnable:
            return self.model.classify.train_margin_euclid / 2 if written is None else written
        return 0.5 if written is None or written > 1 else written

    @property
    def threshold_policy(self) -> Literal["margin", "recall"]:
        """How the threshold is found: as written, else `margin` if `eval_margin` is written, else `recall`."""
        return self.evaluate.threshold.policy or ("recall" if self.model.classify.eval_margin is None else "margin")

    @property
    def threshold_target(self) -> float:
        """The recall that policy `recall` must reach."""
        target = self.evaluate.threshold.target
        return 1.0 if target is None else target

    @property
    def threshold_written(self) -> bool:
        """Whether the spec says anything about the threshold: then it beats the one in a checkpoint."""
        chosen = self.evaluate.threshold
        return any(value is not None for value in (self.model.classify.eval_margin, chosen.policy, chosen.target))

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        """The metric that picks the best checkpoint, and which way is better."""
        checkpointer = self.train.checkpointer
        name = checkpointer.monitor or self.train.optim.monitor_name
        return name, checkpointer.mode or ("max" if name.endswith(LARGER_IS_BETTER) else "min")

    @property
    def quantize_mode(self) -> Mode:
        """The quantization mode: what fits the backend unless it is written."""
        return self.quantize.mode or ("weight_only_ptq" if self.quantize.backend == "torchao" else "static_ptq")

    def batch_size(self, action: Literal["train", "evaluate", "inference"]) -> int:
        """Return the pairs a batch of an action, -1 and 0 resolved."""
        written: int = 0 if action == "train" else getattr(self, action).batch_size
        return written if written > 0 else self.dataset.classify.batch_size

    def num_gpus(self, action: Literal["train", "evaluate", "inference"]) -> int:
        """Return the GPUs a node that an action asks for: `num_gpus` or the number of `gpu_ids`, whichever is more."""
        section: Train | Scoring = getattr(self, action)
        return max(section.num_gpus, len(section.gpu_ids))


def _near(written: Channels | None, *known: Channels) -> bool:
    """Say whether a value is unset or, within 1e-4, one of those that are known."""
    return written is None or any(
        all(abs(here - there) <= 1e-4 for here, there in zip(written, each, strict=True)) for each in known
    )
