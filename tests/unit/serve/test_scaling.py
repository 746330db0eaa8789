"""What the scaling settings do to a load over time: traces, replayed through Ray Serve's own decisions."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingConfig

from serve.settings import Autoscaling

ROOT = Path(__file__).parents[3]
STEP = 5  # seconds between two values of a trace
LOADING = 20  # seconds until a new replica has loaded its models
MINUTE, HOUR = 60, 3600

Trace = list[float]
Replay = Callable[[Autoscaling, Trace], list[int]]


def load(requests: float, seconds: float) -> Trace:
    """So many requests under way, for so long."""
    return [requests] * round(seconds / STEP)


def of_the_manifest() -> Autoscaling:
    document = yaml.safe_load((ROOT / "cluster" / "kuberay" / "serve.yaml").read_text(encoding="utf-8"))
    (application,) = yaml.safe_load(document["spec"]["serveConfigV2"])["applications"]
    (deployment,) = application["deployments"]
    return Autoscaling(**deployment["autoscaling_config"])


DEFAULTS = Autoscaling(max_replicas=6)
MANIFEST = of_the_manifest()
both = pytest.mark.parametrize("scaling", [DEFAULTS, MANIFEST], ids=["defaults", "manifest"])


@pytest.fixture
def replay(monkeypatch) -> Replay:
    """Replay a trace and return how many replicas Ray Serve wants at each step.

    As in Ray Serve, decisions see the mean of the last `look_back_period_s`, and replicas that run, not those that load.
    """

    def run(scaling: Autoscaling, trace: Trace) -> list[int]:
        config = AutoscalingConfig(**scaling.model_dump())
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr("ray.serve.autoscaling_policy.time", SimpleNamespace(time=lambda: clock.now))
        deployment = DeploymentID("inspection", "changenet")
        state = DeploymentAutoscalingState(deployment)
        info = SimpleNamespace(
            deployment_config=SimpleNamespace(autoscaling_config=config, gang_scheduling_config=None),
            target_capacity=None,
            target_capacity_direction=None,
        )
        target = state.register(info, scaling.min_replicas)
        window = round(config.look_back_period_s / STEP)
        started = [-LOADING] * target
        wanted = []
        for number in range(len(trace)):
            clock.now = float(number * STEP)
            seen = trace[max(0, number + 1 - window) : number + 1]
            state.get_total_num_requests = lambda seen=seen: sum(seen) / len(seen)
            state.update_running_replica_ids(
                [ReplicaID(str(at), deployment) for at in started if clock.now - at >= LOADING]
            )
            target = state.get_decision_num_replicas(target)
            started = started[:target] + [clock.now] * (target - len(started))
            wanted.append(target)
        return wanted

    return run


def steady(scaling: Autoscaling) -> float:
    """The load that the fewest replicas are there for."""
    return scaling.target_ongoing_requests * scaling.min_replicas


def full(scaling: Autoscaling) -> float:
    """The load that the most replicas are there for."""
    return scaling.target_ongoing_requests * scaling.max_replicas


@both
def test_a_burst_shorter_than_the_delay_changes_nothing(replay, scaling):
    burst = scaling.upscale_delay_s / 2  # the mean remembers it for half a minute more
    calm = load(steady(scaling) / 2, 2 * MINUTE)
    assert set(replay(scaling, calm + load(2 * steady(scaling), burst) + calm)) == {scaling.min_replicas}


@both
def test_more_load_that_stays_brings_as_many_replicas_as_it_needs_after_the_delay(replay, scaling):
    calm, more = load(steady(scaling), MINUTE), load(steady(scaling) + scaling.target_ongoing_requests, 10 * MINUTE)
    wanted = replay(scaling, calm + more)
    assert wanted[-1] == scaling.min_replicas + 1
    grew = (wanted.index(scaling.min_replicas + 1) - len(calm)) * STEP
    assert scaling.upscale_delay_s <= grew <= scaling.upscale_delay_s + 2 * STEP
    assert sorted(wanted) == wanted, "none goes again"


@both
def test_no_load_brings_more_than_the_most(replay, scaling):
    wanted = replay(scaling, load(100 * full(scaling), HOUR))
    assert wanted[-1] == max(wanted) == scaling.max_replicas


@both
def test_a_dip_keeps_the_replicas_and_a_longer_pause_does_not(replay, scaling):
    busy = load(full(scaling), HOUR)
    wanted = replay(scaling, busy + load(0, scaling.downscale_delay_s / 2) + busy)
    assert set(wanted[len(busy) :]) == {scaling.max_replicas}
    wanted = replay(scaling, busy + load(0, 2 * HOUR))
    after = STEP * next(n for n, each in enumerate(wanted[len(busy) :]) if each < scaling.max_replicas)
    assert scaling.downscale_delay_s <= after <= scaling.downscale_delay_s + MINUTE
    assert wanted[-1] == scaling.min_replicas


@both
def test_a_night_goes_to_none_and_the_first_request_brings_one_back_at_once(replay, scaling):
    sleeps = scaling.model_copy(update={"min_replicas": 0})
    busy, night, morning = load(full(scaling), HOUR), load(0, 8 * HOUR), load(1, 2 * MINUTE)
    wanted = replay(sleeps, busy + night + morning)
    asleep = wanted[len(busy) :].index(0) * STEP
    assert asleep <= 2 * scaling.downscale_delay_s + MINUTE, "to one, and to none"
    assert set(wanted[-len(morning) :]) == {1}, "one is enough for one request, and it stays"


@both
def test_without_leave_to_sleep_a_night_keeps_the_fewest(replay, scaling):
    assert set(replay(scaling, load(0, 8 * HOUR))) == {scaling.min_replicas}
