"""The spec that comes with a synthetic data set: the light pretrained encoder, minutes of training on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

from changenet.synthetic.plan import Request

PAIRS_TO_SEE = 8400
"""Pairs that training draws in all: enough for an AUROC above 0.99 on the generated boards."""

TEMPLATE = """\
# A spec for the generated boards in this folder: the light pretrained encoder with the pooled head. It trains in
# minutes on a CPU. Made by `changenet sample`; yours to change.
task: classify
results_dir: {results}
model:
  backbone:
    type: timm/tf_efficientnet_lite0
    pretrained_backbone_path: bundled    # from the extra `weights`
  decode_head:
    decoder_params: {{embed_dim: 48}}
  classify:
    difference_module: learnable
    head: pool
dataset:
  classify:
    train_dataset: {{csv_path: {train}, images_dir: {images}}}
    validation_dataset: {{csv_path: {val}, images_dir: {images}}}
    test_dataset: {{csv_path: {test}, images_dir: {images}}}
    infer_dataset: {{csv_path: {infer}, images_dir: {images}}}
    image_ext: {extension}
    batch_size: 32
    workers: 0
    fpratio_sampling: 1.0                # as many defects as good pairs in a batch
{lights}    image_width: {side}
    image_height: {side}
    num_golden: {goldens}
    augmentation_config:
      augment: true                      # boards lie any way round; colours and sharpness stay as they are
      random_flip: {{enable: true}}
      random_rotate: {{enable: true}}
      random_color: {{enable: false}}
      with_random_crop: false
      with_random_blur: false
train:
  num_epochs: {epochs}
  checkpoint_interval: {validate}
  validation_interval: {validate}
  optim:
    optim: adamw
    lr: 0.001
    weight_decay: 0.01
    policy: cosine
    warmup_steps: 30
    monitor_name: val_auroc
evaluate:
  threshold: {{policy: recall, target: 1.0}}
  checkpoint: ${{results_dir}}/train/model_best.pth
inference:
  checkpoint: ${{results_dir}}/train/model_best.pth
export:
  checkpoint: ${{results_dir}}/train/model_best.pth
"""


def write_recipe(folder: Path, request: Request, train_pairs: int, extension: str) -> str:
    """Return the text of `spec.yaml`, with absolute paths.

    Args:
        folder: The data set's folder.
        request: What was written there.
        train_pairs: Rows of `train.csv`.
        extension: Of the picture files, with its dot.
    """
    epochs = max(4, round(PAIRS_TO_SEE / train_pairs))

    def path(*names: str) -> str:
        return json.dumps(str(folder.joinpath(*names)))  # a JSON string is a YAML string

    lights = ""
    if request.lights > 1:
        order = ", ".join(f"{name}: {place}" for place, name in enumerate(request.light_names))
        lights = f"    num_input: {request.lights}\n    input_map: {{{order}}}\n    concat_type: linear\n"
    # Several goldens want levels whose sides are multiples of 7, down to the one at stride 32.
    side = request.size if request.goldens == 1 else -(-request.size // 224) * 224
    return TEMPLATE.format(
        results=path("results"),
        train=path("train.csv"),
        val=path("val.csv"),
        test=path("test.csv"),
        infer=path("infer.csv"),
        images=path("images"),
        extension=extension,
        lights=lights,
        side=side,
        goldens=request.goldens,
        epochs=epochs,
        validate=max(1, epochs // 4),
    )
