"""The queue in front of an engine."""

import asyncio
import threading

import numpy as np
import pytest
from pydantic import ValidationError

from serve.batching import BatchQueue
from serve.golden_cache import GoldenCache
from serve.pairs import Comparer, Golden, Pair
from serve.settings import Batching, ServiceSettings


class Recorder:
    """Doubles numbers, and is held up until told to go on."""

    def __init__(self) -> None:
        self.batches = []
        self.go = threading.Event()
        self.entered = threading.Event()

    def __call__(self, items):
        self.entered.set()
        assert self.go.wait(60)
        self.batches.append(list(items))
        return [2 * item for item in items]


def queue_of(work, **settings):
    return BatchQueue(name="engine", work=work, size=lambda item: abs(item), settings=Batching(**settings))


async def held_up(work, queue):
    """Submit one item and return when the engine is busy with it."""
    first = asyncio.ensure_future(queue.submit(1))
    assert await asyncio.to_thread(work.entered.wait, 60)
    return first


def test_what_waits_for_a_busy_engine_shares_the_next_calls():
    async def run():
        work = Recorder()
        queue = queue_of(work, max_batch_size=4)
        first = await held_up(work, queue)
        rest = [asyncio.ensure_future(queue.submit(item)) for item in (1, 1, 2, 1, 9, 1)]
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(first, *rest) == [2, 2, 2, 4, 2, 18, 2]
        return work.batches

    # By size: 1 + 1 + 2 are full; 9 alone is more than a batch and still runs.
    assert asyncio.run(run()) == [[1], [1, 1, 2], [1], [9], [1]]


def test_what_is_urgent_is_in_the_next_batch_and_what_waits_before_it_moves_on():
    async def run():
        work = Recorder()
        queue = queue_of(work, max_batch_size=4)
        first = await held_up(work, queue)
        board = [asyncio.ensure_future(queue.submit(1)) for _ in range(10)]
        await asyncio.sleep(0)
        alone = [asyncio.ensure_future(queue.submit(-1, urgent=True)) for _ in range(6)]
        await asyncio.sleep(0)
        work.go.set()
        await asyncio.gather(first, *board, *alone)
        return work.batches

    batches = asyncio.run(run())
    assert [sorted(batch) for batch in batches[1:]] == [[-1, -1, 1, 1]] * 3 + [[1] * 4]


def test_other_work_does_not_queue_behind_boards_and_stops_none():
    async def run():
        work, turns = Recorder(), []
        queue = queue_of(work, max_batch_size=2)
        first = await held_up(work, queue)
        board = [asyncio.ensure_future(queue.submit(1)) for _ in range(8)]
        await asyncio.sleep(0)
        other = [asyncio.ensure_future(queue.run(lambda: turns.append(len(work.batches)))) for _ in range(3)]
        await asyncio.sleep(0)
        work.go.set()
        await asyncio.gather(first, *other, *board)
        return turns

    one, two, three = asyncio.run(run())
    assert one <= 2 and one < two < three <= 4, "by turns"


def test_an_item_whose_caller_has_gone_is_skipped():
    async def run():
        work = Recorder()
        queue = queue_of(work)
        first = await held_up(work, queue)
        gone, stays = (asyncio.ensure_future(queue.submit(item)) for item in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(first, stays) == [2, 6]
        return work.batches

    assert asyncio.run(run()) == [[1], [3]]


def test_a_failed_batch_is_told_to_its_callers_and_the_next_one_runs():
    async def run():
        queue = queue_of(lambda items: [1 / item for item in items])
        with pytest.raises(ZeroDivisionError):
            await queue.submit(0)
        assert await queue.submit(2) == 0.5
        wrong = queue_of(lambda _: [])
        for _ in range(2):  # an engine that loses pictures is told too
            with pytest.raises(ValueError, match="shorter"):
                await wrong.submit(1)
        assert await queue.run(lambda: "alone") == "alone"

    asyncio.run(run())


def test_a_queue_has_a_thread_from_its_first_item_until_it_is_closed():
    async def run():
        queue = queue_of(lambda items: items)
        assert queue._thread is None
        assert await queue.submit(1) == 1
        thread = queue._thread
        queue.close()
        thread.join(60)
        assert not thread.is_alive()
        assert await queue.submit(2) == 2, "who comes too late is served all the same"

    asyncio.run(run())


def test_a_waiting_time_fills_batches_and_settings_change_while_it_runs():
    async def run():
        batches = []

        def work(items):
            batches.append(len(items))
            return items

        queue = queue_of(work, max_batch_size=3, batch_wait_timeout_s=1.0)
        await asyncio.gather(*(queue.submit(1) for _ in range(3)))
        queue.settings = Batching(max_batch_size=2, batch_wait_timeout_s=1.0)
        await asyncio.gather(*(queue.submit(1) for _ in range(4)))
        return batches

    assert asyncio.run(run()) == [3, 2, 2]


def test_a_new_golden_is_encoded_once_a_batch(models):
    engine, cache = models["pcb"].inspector.engine, GoldenCache(1000)
    test = np.full((3, 8, 8), 255, np.uint8)
    golden = Golden(("v", "g"), pixels=np.zeros((3, 8, 8), np.uint8))
    compare = Comparer(engine, num_golden=1)
    assert compare([Pair(test, (golden,))] * 3, cache=cache).tolist() == [1, 1, 1]
    assert engine.batches == [4]
    late = Golden(("v", "g"), pixels=golden.pixels)  # decoded while the batch before encoded the same
    compare([Pair(test, (late,))], cache=cache)
    assert engine.batches == [4, 1]


def test_batches_of_all_sizes_give_the_scores_of_their_own_pairs(models):
    engine, cache = models["goldens"].inspector.engine, GoldenCache(1 << 20)
    compare = Comparer(engine, num_golden=2)

    def pair(level):
        goldens = (Golden(("v", str(g)), pixels=np.full((3, 8, 8), g, np.uint8)) for g in (level, level // 3))
        return Pair(np.full((3, 8, 8), level, np.uint8), tuple(goldens))

    for size in (3, 1, 5, 2):
        levels = np.arange(size) * 30 + size
        scores = compare([pair(level) for level in levels], cache=cache)
        assert scores == pytest.approx([(level - level // 3) / 2 / 255 for level in levels], abs=1e-6)


def test_a_batch_that_could_never_fill_is_refused():
    models = [{"name": "a", "bundle": "b"}]
    with pytest.raises(ValidationError, match="no batch could fill"):
        ServiceSettings(models=models, max_batch_size=65, max_ongoing_requests=64)
    assert ServiceSettings(models=models, max_batch_size=64, max_ongoing_requests=64).batching.max_batch_size == 64
