"""How much of what predictors served was logged: their own counters, scraped, beside ours."""

import logging
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta

import httpx

log = logging.getLogger("hscode.monitor")

COUNTER = "hs_predictor_requests_total"
SECONDS = 5.0


class Served:
    """Increments of predictors' counters over a window."""

    def __init__(self, urls: Iterable[str], window_seconds: float) -> None:
        self.urls, self.window = tuple(urls), timedelta(seconds=window_seconds)
        self._last: dict[tuple[str, str], float] = {}
        self._increments: deque[tuple[datetime, float]] = deque()
        self._no_counters = set[str]()
        """Addresses that people were told of."""

    def look(self, now: datetime) -> None:
        """Scrape each address; one that does not answer (scaled to zero) served nothing meanwhile."""
        total = 0.0
        for url in self.urls:
            try:
                process, answered = served_in(httpx.get(url, timeout=SECONDS).raise_for_status().text)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
                if url not in self._no_counters:
                    said = (str(error).splitlines() or [type(error).__name__])[0][:200]
                    log.warning("monitor.served_urls: no predictor's counters at %s: %s", url, said)
                    self._no_counters.add(url)
                continue
            except httpx.HTTPError:
                continue
            self._no_counters.discard(url)
            # Behind one address there may be several processes, each with a counter of its own.
            before = self._last.get((url, process))
            self._last[(url, process)] = answered
            if before is not None:
                total += answered - before if answered >= before else answered
        self._increments.append((now, total))
        while self._increments and self._increments[0][0] < now - self.window:
            self._increments.popleft()

    @property
    def since(self) -> datetime | None:
        """From when on `total` counts; None before the second look."""
        return self._increments[0][0] if len(self._increments) > 1 else None

    @property
    def total(self) -> float:
        """Requests answered since `since`."""
        return sum(count for at, count in list(self._increments)[1:])


def served_in(text: str) -> tuple[str, float]:
    """Of an exposition: which process it is (its start time), and requests to predict answered 200."""
    from prometheus_client.parser import text_string_to_metric_families

    process, answered = "", 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "process_start_time_seconds":
                process = str(sample.value)
            elif sample.name == COUNTER and sample.labels.get("code") == "200":
                answered += sample.value if sample.labels.get("verb") in ("predict", "infer", "explain") else 0.0
    return process, answered
