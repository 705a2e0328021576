"""The line of accepted work and the threads that do it: one for each processor, for most of the work is in C.

Requests that wait at the same time are computed together, because a batch costs ONNX Runtime less than its rows; an
answer depends on its own text only, which the bundle guarantees and a test holds it to.
"""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from serving.predictor.request import Instance, Refused

log = logging.getLogger(__name__)

Work = Callable[[Sequence[Instance]], list[dict[str, Any]]]
"""Instances in, as many answers out; runs on one of the engine's threads."""


class Job:
    """One request's instances and where its answers go."""

    __slots__ = ("future", "instances", "loop", "rows", "work")

    def __init__(self, work: Work, instances: list[Instance], rows: int, loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.instances, self.rows, self.loop = work, instances, rows, loop
        self.future: asyncio.Future[list[dict[str, Any]]] = loop.create_future()


class Engine:
    """Bounded line, worker threads. `start` once, `run` from the event loop, `stop` when the line is empty."""

    def __init__(self, waiting: int, batch_rows: int, threads: int = 1) -> None:
        self.limit, self.batch_rows = waiting, batch_rows
        self.waiting = 0
        self._line: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"engine-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        """Start the worker threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the worker threads after what is in the line."""
        for _ in self._threads:
            self._line.put(None)
        for thread in self._threads:
            thread.join()

    async def run(self, work: Work, instances: list[Instance], rows: int | None = None) -> list[dict[str, Any]]:
        """Answers for `instances`, in order; Refused 503 where the line is full.

        `rows` is what they cost, in texts that the model computes; None: one an instance.
        """
        if rows is None:
            rows = len(instances)
        if self.waiting + rows > self.limit and self.waiting:
            raise Refused(503, f"busy: {self.waiting} instances are waiting; the limit is {self.limit}", retry_after=1)
        self.waiting += rows
        job = Job(work, instances, rows, asyncio.get_running_loop())
        self._line.put(job)
        try:
            return await job.future
        finally:
            self.waiting -= rows

    def _work(self) -> None:
        held: Job | None = None
        while True:
            job = held if held is not None else self._line.get()
            held = None
            if job is None:
                return
            batch, rows = [job], job.rows
            while rows < self.batch_rows:
                try:
                    other = self._line.get_nowait()
                except queue.Empty:
                    break
                if other is None:
                    self._line.put(None)
                    break
                if other.work is not job.work or rows + other.rows > self.batch_rows:
                    held = other
                    break
                batch.append(other)
                rows += other.rows
            self._compute(batch)

    def _compute(self, batch: list[Job]) -> None:
        batch = [job for job in batch if not job.future.cancelled()]
        if not batch:
            return
        try:
            answers = batch[0].work([one for job in batch for one in job.instances])
        except Exception as error:
            if len(batch) > 1:  # a neighbour's failure is not one's own
                for job in batch:
                    self._compute([job])
                return
            log.exception("computing %d instances failed", len(batch[0].instances))
            batch[0].loop.call_soon_threadsafe(_fail, batch[0].future, error)
            return
        results, at = [], 0
        for job in batch:
            results.append((job.future, answers[at : at + len(job.instances)]))
            at += len(job.instances)
        batch[0].loop.call_soon_threadsafe(_deliver, results)


def processors() -> int:
    """Processors that this process may use, by affinity and by its control group's quota; at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, int(quota) // int(period))
    except (OSError, ValueError):
        pass
    return max(1, count)


def _deliver(results: list[tuple["asyncio.Future[list[dict[str, Any]]]", list[dict[str, Any]]]]) -> None:
    for future, answers in results:
        if not future.done():
            future.set_result(answers)


def _fail(future: "asyncio.Future[list[dict[str, Any]]]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
