"""The experiment spec: TAO's YAML keys and our own as frozen, checked models.

`load_spec(path, overrides)` is the way in; `Experiment` is what comes out.
"""

from changenet.spec.experiment import Experiment
from changenet.spec.loading import LoadedSpec, load_spec

__all__ = ["Experiment", "LoadedSpec", "load_spec"]
