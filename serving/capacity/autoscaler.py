"""Knative's autoscaler (KPA) as a pure state machine on seconds: what it sees, and how many replicas it wants.

After Knative Serving's source (docs/capacity.md says what was read): `pkg/autoscaler/scaling/autoscaler.go` (windows,
panic, rates, delay, burst capacity), `pkg/autoscaler/aggregation/bucketing.go` (averages),
`pkg/reconciler/autoscaling/kpa/scaler.go` and `kpa.go` (bounds, active and inactive, the way to zero). In words:
https://knative.dev/docs/serving/autoscaling/kpa-specific/.
"""

import math
from collections import deque
from typing import Protocol


class Knative(Protocol):
    """The section `capacity.knative` of the settings; units there."""

    @property
    def target(self) -> float: ...
    @property
    def container_concurrency(self) -> int: ...
    @property
    def target_utilisation(self) -> float: ...
    @property
    def stable_window_s(self) -> int: ...
    @property
    def panic_window_share(self) -> float: ...
    @property
    def panic_threshold(self) -> float: ...
    @property
    def max_scale_up_rate(self) -> float: ...
    @property
    def max_scale_down_rate(self) -> float: ...
    @property
    def scale_down_delay_s(self) -> float: ...
    @property
    def grace_s(self) -> float: ...
    @property
    def retention_s(self) -> float: ...
    @property
    def target_burst_capacity(self) -> float: ...
    @property
    def tick_s(self) -> int: ...
    @property
    def drain_s(self) -> float: ...


class Window:
    """The mean of one value a second over the last `seconds`.

    Before the window is full the mean is over the part since its first value; seconds without a value count as zero; a
    whole window without one starts it anew.
    """

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self._values = [0.0] * seconds
        self._first = self._last = -1

    def record(self, second: int, value: float) -> None:
        """Set the value of `second`, which must not lie before the last one recorded."""
        if self._last < 0 or second - self._last >= self.seconds:
            self._values = [0.0] * self.seconds
            self._first = second
        else:
            for skipped in range(self._last + 1, second):
                self._values[skipped % self.seconds] = 0.0
        self._last = second
        self._values[second % self.seconds] = value

    def empty(self, second: int) -> bool:
        """No value within the window that ends at `second`."""
        return self._last < 0 or second - self._last > self.seconds

    def average(self, second: int) -> float:
        """The mean at `second`, rounded down to six decimals as Knative does."""
        late = second - self._last
        if self._last < 0 or late >= self.seconds:
            return 0.0
        total = math.fsum(self._values)
        for outdated in range(self._last + 1, second + 1):
            total -= self._values[outdated % self.seconds]
        known = min(self._last - self._first + 1, self.seconds - max(late, 0))
        return math.floor(total / known * 1e6) / 1e6


class Autoscaler:
    """One revision's autoscaler. Times are seconds from any start and must not go back."""

    def __init__(self, knative: Knative, minimum: int, maximum: int, ready: int) -> None:
        """`ready` replicas stand at time 0; `maximum` 0: no bound. More than one: it begins in panic mode, as after a
        restart of Knative's autoscaler, and so keeps them until it has seen enough."""
        self.knative, self.minimum, self.maximum = knative, minimum, maximum
        total = knative.target
        if knative.container_concurrency:
            total = min(total, float(knative.container_concurrency))
        self.capacity = total
        self.target = max(1.0, total * knative.target_utilisation)
        self.stable = Window(knative.stable_window_s)
        self.panic = Window(max(1, round(knative.stable_window_s * knative.panic_window_share)))
        self.wanted = ready
        """The last decision, before bounds: at 0 a request wakes the autoscaler at once."""
        self._panic_since: float | None = 0.0 if ready > 1 else None
        self._panic_pods = ready
        self._delayed: deque[tuple[float, int]] = deque()
        self._state = "active" if ready else "inactive"
        self._since = 0.0
        self._proxied_since: float | None = 0.0

    def record(self, at: float, concurrency: float) -> None:
        """Requests in flight, waiting ones included: the mean of the second that ends at `at`."""
        self.stable.record(int(at), concurrency)
        self.panic.record(int(at), concurrency)

    def decide(self, at: float, ready: int) -> int | None:
        """How many replicas to have now, with `ready` of them up. None: leave it as it is."""
        second = int(at)
        if self.stable.empty(second):
            return None
        wanted = self._wanted(at, ready, self.stable.average(second), self.panic.average(second))
        self.wanted = wanted
        scale = max(wanted, self.minimum)
        if self.maximum:
            scale = min(scale, self.maximum)
        return self._way_to_zero(at, scale, ready)

    def _wanted(self, at: float, ready: int, stable: float, panic: float) -> int:
        """Scale() of autoscaler.go."""
        knative = self.knative
        pods = max(1, ready)
        highest = math.ceil(knative.max_scale_up_rate * pods)
        lowest = math.floor(pods / knative.max_scale_down_rate)
        for_stable, for_panic = math.ceil(stable / self.target), math.ceil(panic / self.target)
        wanted = min(max(for_stable, lowest), highest)
        if for_panic / pods >= knative.panic_threshold:
            self._panic_since = at
        elif self._panic_since is not None and at - self._panic_since > knative.stable_window_s:
            self._panic_since, self._panic_pods = None, 0
        if self._panic_since is not None:
            self._panic_pods = max(self._panic_pods, wanted, min(max(for_panic, lowest), highest))
            wanted = self._panic_pods
        if knative.scale_down_delay_s > 0:
            self._delayed.append((at, wanted))
            while self._delayed[0][0] <= at - knative.scale_down_delay_s:
                self._delayed.popleft()
            wanted = max(count for _, count in self._delayed)
        self._burst(at, ready, panic)
        return wanted

    def _burst(self, at: float, ready: int, panic: float) -> None:
        """Since when the activator is in the way of requests: where spare capacity is below the burst capacity."""
        burst = self.knative.target_burst_capacity
        if burst < 0 or (burst > 0 and math.floor(ready * self.capacity - burst - panic) < 0):
            if self._proxied_since is None:
                self._proxied_since = at
        elif self._state != "inactive":
            self._proxied_since = None

    def _way_to_zero(self, at: float, scale: int, ready: int) -> int | None:
        """handleScaleToZero() of scaler.go and computeActiveCondition() of kpa.go."""
        knative = self.knative
        if scale > 0:
            state = "active" if ready >= max(1, self.minimum) else "activating"
            if state != self._state:
                self._state, self._since = state, at
            return scale
        if self._state == "activating":
            if not ready:
                return None
            self._state, self._since = "active", at
        if self._state == "active":
            if at - self._since < knative.stable_window_s:
                return 1
            self._state, self._since = "inactive", at
            if self._proxied_since is None:
                self._proxied_since = at
            return None
        inactive = at - self._since
        if inactive >= max(knative.grace_s, knative.retention_s):
            return 0
        if inactive < knative.retention_s or self._proxied_since is None:
            return None
        return 0 if at - self._proxied_since >= knative.grace_s else None
