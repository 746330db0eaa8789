"""Generated boards: pictures of circuit boards with components, defects and lights, for demonstrations and tests."""

from changenet.synthetic.dataset import Summary, write_dataset
from changenet.synthetic.defects import DEFECTS
from changenet.synthetic.lights import LIGHTS
from changenet.synthetic.plan import Plan, Request, make_plan

__all__ = ["DEFECTS", "LIGHTS", "Plan", "Request", "Summary", "make_plan", "write_dataset"]
