"""`wandb`: accepted so that TAO specs load; nothing leaves the machine."""

from __future__ import annotations

from pydantic import Field

from changenet.spec.section import Section


class Wandb(Section):
    """`wandb`: not used."""

    enable: bool = Field(default=True, description="Nothing is sent anywhere.")
    project: str | None = Field(default="TAO Toolkit", description="Project.")
    entity: str | None = Field(default=None, description="Account.")
    group: str | None = Field(default=None, description="Group.")
    tags: tuple[str, ...] | None = Field(default=("training", "tao-toolkit"), description="Tags.")
    reinit: bool = Field(default=False, description="Allow several runs a process.")
    sync_tensorboard: bool = Field(default=False, description="Send TensorBoard events.")
    save_code: bool = Field(default=False, description="Send the code.")
    name: str | None = Field(default=None, description="Name of the run.")
    run_id: str | None = Field(default=None, description="Number of the run.")
