"""The engine: order, the bound, neighbours' failures, cancelled requests."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.predictor.engine import Engine, processors
from serving.predictor.request import Instance, Refused


def instances(*texts: str) -> list[Instance]:
    return [{"description": text} for text in texts]


def echo(given: Any) -> list[dict[str, Any]]:
    if any(one["description"] == "fails" for one in given):
        raise ValueError("this one fails")
    return [{"echo": one["description"], "together": len(given)} for one in given]


@pytest.fixture
def make() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def start(waiting: int = 100, batch_rows: int = 8, threads: int = 1) -> Engine:
        made.append(Engine(waiting, batch_rows, threads))
        made[-1].start()
        return made[-1]

    yield start
    for engine in made:
        engine.stop()


class Gate:
    """Work that waits until it is let through, and tells when it has begun."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def __call__(self, given: Any) -> list[dict[str, Any]]:
        self.sizes.append(len(given))
        self.begun.set()
        assert self.open.wait(10)
        return echo(given)


@pytest.mark.parametrize("threads", [1, 3])
def test_each_request_gets_its_own_answers_in_order(make: Callable[..., Engine], threads: int) -> None:
    engine = make(waiting=1000, threads=threads)

    async def main() -> None:
        asked = [engine.run(echo, instances(*(f"{r}.{i}" for i in range(r % 4 + 1)))) for r in range(50)]
        for r, answers in enumerate(await asyncio.gather(*asked)):
            assert [a["echo"] for a in answers] == [f"{r}.{i}" for i in range(r % 4 + 1)]

    asyncio.run(main())
    assert engine.waiting == 0


def test_what_waits_is_computed_together_up_to_the_batch(make: Callable[..., Engine]) -> None:
    engine, gate = make(batch_rows=8), Gate()

    async def main() -> None:
        first = asyncio.create_task(engine.run(gate, instances("first")))
        await asyncio.to_thread(gate.begun.wait, 10)
        others = [asyncio.create_task(engine.run(gate, instances("a", "b", "c"))) for _ in range(4)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())
    assert gate.sizes == [1, 6, 6]


def test_past_the_bound_it_is_busy_and_then_not(make: Callable[..., Engine]) -> None:
    engine, gate = make(waiting=3), Gate()

    async def main() -> None:
        held = asyncio.create_task(engine.run(gate, instances("a", "b", "c")))
        await asyncio.to_thread(gate.begun.wait, 10)
        with pytest.raises(Refused) as refused:
            await engine.run(gate, instances("d"))
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
        assert "the limit is 3" in refused.value.reason
        gate.open.set()
        await held
        assert [a["echo"] for a in await engine.run(echo, instances("d"))] == ["d"]

    asyncio.run(main())


def test_what_costs_more_than_its_instances_takes_its_place_in_the_line(make: Callable[..., Engine]) -> None:
    engine, gate = make(waiting=100, batch_rows=8), Gate()

    async def main() -> None:
        first = asyncio.create_task(engine.run(gate, instances("first")))
        await asyncio.to_thread(gate.begun.wait, 10)
        others = [asyncio.create_task(engine.run(gate, instances("a"), rows=49)) for _ in range(2)]
        await asyncio.sleep(0)
        assert engine.waiting == 99
        with pytest.raises(Refused, match="the limit is 100"):
            await engine.run(gate, instances("b", "c"))
        gate.open.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())
    assert gate.sizes == [1, 1, 1]
    assert engine.waiting == 0


def test_a_request_larger_than_the_bound_is_taken_when_nothing_waits(make: Callable[..., Engine]) -> None:
    engine = make(waiting=2)
    assert len(asyncio.run(engine.run(echo, instances("a", "b", "c")))) == 3


def test_a_neighbours_failure_is_not_ones_own(make: Callable[..., Engine]) -> None:
    engine, gate = make(), Gate()

    async def main() -> None:
        first = asyncio.create_task(engine.run(gate, instances("first")))
        await asyncio.to_thread(gate.begun.wait, 10)
        bad = asyncio.create_task(engine.run(gate, instances("fails")))
        good = asyncio.create_task(engine.run(gate, instances("good")))
        await asyncio.sleep(0)
        gate.open.set()
        assert (await first)[0]["echo"] == "first"
        with pytest.raises(ValueError, match="this one fails"):
            await bad
        assert (await good)[0]["echo"] == "good"

    asyncio.run(main())


def test_a_cancelled_request_is_not_computed_and_frees_its_place(make: Callable[..., Engine]) -> None:
    engine, gate = make(), Gate()

    async def main() -> None:
        first = asyncio.create_task(engine.run(gate, instances("first")))
        await asyncio.to_thread(gate.begun.wait, 10)
        gone = asyncio.create_task(engine.run(gate, instances("gone", "gone")))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert engine.waiting == 1
        gate.open.set()
        await first
        await engine.run(echo, instances("last"))

    asyncio.run(main())
    assert gate.sizes == [1]
    assert engine.waiting == 0


def test_threads_compute_at_once(make: Callable[..., Engine]) -> None:
    engine = make(threads=2)
    both = threading.Barrier(2, timeout=10)

    def meets(given: Any) -> list[dict[str, Any]]:
        both.wait()
        return echo(given)

    async def main() -> None:
        first = asyncio.create_task(engine.run(meets, instances(*"abcdefgh")))
        second = asyncio.create_task(engine.run(meets, instances(*"abcdefgh")))
        await asyncio.gather(first, second)

    asyncio.run(main())


def test_processors_are_those_that_may_be_used() -> None:
    assert 1 <= processors() <= len(os.sched_getaffinity(0))
