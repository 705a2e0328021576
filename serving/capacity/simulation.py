"""Requests through gateway, activator and pods, event by event. Deterministic; about a million requests in seconds."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace

import numpy as np
import numpy.typing as npt

from serving.capacity.autoscaler import Autoscaler, Knative

Floats = npt.NDArray[np.float64]
_DONE, _READY, _SECOND = 0, 1, 2
"""Kinds of events, in the order in which those of one instant happen."""


@dataclass(frozen=True)
class Service:
    """A pod and the way to it."""

    cpus: float
    """CPUs of a pod: it works on ceil(cpus) requests at a time, each at cpus / ceil(cpus) of a CPU's speed."""
    gateway_s: float
    """Seconds that gateway, activator and queue-proxy add to each request."""
    waiting: int
    """Requests in a pod, waiting or worked on, from which it refuses (503)."""


@dataclass(frozen=True)
class Outcome:
    """What happened to the requests, and what was up meanwhile."""

    latency: Floats
    """Seconds from arrival to answer, shape (requests,), in order of arrival; NaN: refused."""
    cold: npt.NDArray[np.bool_]
    """Requests that found no pod ready."""
    replica_seconds: float
    """Sum over pods of the time from their creation to their end (starting and draining included)."""
    most: int
    """Most pods at once, those that drain apart."""
    starts: int
    """Pods started after the first instant."""
    seconds: float
    """From 0 to the trace's end or the last answer, whichever is later."""


class _Pod:
    __slots__ = ("created", "ends", "inside", "ready", "stopped", "workers")

    def __init__(self, created: float, workers: int) -> None:
        self.created = self.ends = created
        self.workers = [created] * workers
        """Heap of the times from which each is free: the line is first come, first served, so an answer's time is known
        when its request enters."""
        self.inside = 0
        self.ready = self.stopped = False


def simulate(
    at: Floats,
    work: Floats,
    starts: Iterator[float],
    service: Service,
    knative: Knative,
    *,
    minimum: int,
    maximum: int,
    seconds: float,
    random: np.random.Generator,
    scaling: bool = True,
) -> Outcome:
    """Let requests arriving at `at` (rising seconds), each with `work` CPU seconds, through the service.

    `minimum` pods are ready at 0; `starts` gives the seconds from a pod's creation to its readiness; `scaling` False:
    they stay as they are. Pods are chosen as Knative's activator does: without container concurrency the emptier of
    two drawn at random, up to 3 the first that has room, above in turn; what finds none waits in the activator.
    """
    autoscaler = Autoscaler(knative, minimum, maximum, minimum)
    limit = knative.container_concurrency
    workers = max(1, math.ceil(service.cpus))
    times, needs = at.tolist(), (work * workers / service.cpus).tolist()
    count = len(times)
    finish = [math.nan] * count
    cold = [False] * count
    pods: list[_Pod] = []
    ready: list[_Pod] = []
    leaving: list[_Pod] = []
    buffer: deque[int] = deque()
    events: list[tuple[float, int, int, _Pod | None]] = []
    draws: list[float] = []
    inside = number = most = started = turn = 0
    area = last = paid = now = 0.0

    def scale(wanted: int | None) -> None:
        nonlocal number, most, started, paid
        if wanted is None:
            return
        while len(pods) < wanted:
            pod = _Pod(now, workers)
            pods.append(pod)
            number, started = number + 1, started + 1
            heappush(events, (now + next(starts), _READY, number, pod))
        most = max(most, len(pods))
        while len(pods) > wanted:
            # As a ReplicaSet does: those that are not ready first, then the newest.
            pod = next((p for p in reversed(pods) if not p.ready), pods[-1])
            pods.remove(pod)
            pod.stopped = True
            if pod.ready:
                ready.remove(pod)
                leaving.append(pod)
                pod.ends = max(pod.ends, now + knative.drain_s)
            else:
                paid += now - pod.created

    def enter(request: int) -> bool:
        """Give the request to a pod; False: none has room."""
        nonlocal inside, number, turn
        if not ready:
            return False
        if limit == 0:
            pod = ready[0]
            if len(ready) > 1:
                if not draws:
                    draws.extend(random.random(8192).tolist())
                draw = draws.pop() * len(ready)
                first = int(draw)
                second = int((draw - first) * (len(ready) - 1))
                other = ready[second + (second >= first)]
                pod = ready[first]
                if other.inside < pod.inside:
                    pod = other
        else:
            begin = 0 if limit <= 3 else turn
            for step in range(len(ready)):
                place = (begin + step) % len(ready)
                if ready[place].inside < limit:
                    break
            else:
                return False
            pod, turn = ready[place], place + 1
        if pod.inside >= service.waiting:
            inside -= 1
            return True
        free = pod.workers[0]
        ends = (free if free > now else now) + needs[request]
        heapreplace(pod.workers, ends)
        pod.inside += 1
        pod.ends = max(pod.ends, ends)
        finish[request] = ends
        number += 1
        heappush(events, (ends, _DONE, number, pod))
        return True

    for _ in range(minimum):
        pod = _Pod(0.0, workers)
        pod.ready = True
        pods.append(pod)
        ready.append(pod)
    most = len(pods)
    heappush(events, (1.0, _SECOND, 0, None))
    request = 0
    while True:
        if request < count and times[request] <= events[0][0]:
            now = times[request]
            area += inside * (now - last)
            last = now
            inside += 1
            if not ready:
                cold[request] = True
            if buffer or not enter(request):
                buffer.append(request)
            request += 1
            if scaling and inside == 1 and autoscaler.wanted == 0:
                # The activator tells the autoscaler of a first request at once.
                autoscaler.record(now, 1.0)
                scale(autoscaler.decide(now, len(ready)))
            continue
        now, kind, _, touched = heappop(events)
        area += inside * (now - last)
        last = now
        if kind == _DONE and touched is not None:
            touched.inside -= 1
            inside -= 1
            if buffer and enter(buffer[0]):
                buffer.popleft()
        elif kind == _READY and touched is not None:
            if touched.stopped:
                continue
            touched.ready = True
            touched.workers = [now] * workers
            ready.append(touched)
            while buffer and enter(buffer[0]):
                buffer.popleft()
        else:
            if request == count and not inside and now >= seconds:
                break
            if scaling:
                if ready or inside:
                    autoscaler.record(now, area)
                if int(now) % knative.tick_s == 0:
                    scale(autoscaler.decide(now, len(ready)))
            area = 0.0
            upcoming = now + 1.0
            if not pods and not inside and request < count:
                upcoming = max(upcoming, float(math.ceil(times[request])))
            heappush(events, (upcoming, _SECOND, 0, None))
    end = max(seconds, max((f for f in finish if f == f), default=0.0))
    paid += sum(end - pod.created for pod in pods) + sum(min(pod.ends, end) - pod.created for pod in leaving)
    latency = np.array(finish) - at + service.gateway_s
    return Outcome(latency, np.array(cold), paid, most, started, end)
