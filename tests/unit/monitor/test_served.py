"""Predictors' own counters: what is scraped, and addresses that have none."""

import logging
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from serving.control.monitor.served import Served

T0 = datetime(2026, 1, 2, tzinfo=UTC)
PAGE = "<!DOCTYPE html><html><body>log in</body></html>"


def exposition(answered: int) -> str:
    return (
        "# TYPE hs_predictor_requests_total counter\n"
        f'hs_predictor_requests_total{{protocol="v1",verb="predict",code="200"}} {answered}\n'
    )


def test_an_address_without_counters_is_told_once_and_the_others_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pages = {"http://page/": PAGE, "http://good/": exposition(3)}
    real = httpx.get

    def get(url: str, timeout: float) -> httpx.Response:
        if url in pages:
            return httpx.Response(200, text=pages[url], request=httpx.Request("GET", url))
        return real(url, timeout=timeout)

    monkeypatch.setattr(httpx, "get", get)
    served = Served(["http://page/", "http://predictor:metrics", "no-scheme", "http://good/"], 600)
    with caplog.at_level(logging.WARNING):
        for look, answered in enumerate((3, 10, 12)):
            pages["http://good/"] = exposition(answered)
            served.look(T0 + timedelta(seconds=look))
    assert served.total == 9
    told = [record.getMessage() for record in caplog.records]
    assert sorted(message.split(" at ")[1].split(": ")[0] for message in told) == [
        "http://page/",
        "http://predictor:metrics",
        "no-scheme",
    ]
    assert all("\n" not in message for message in told)
    # It is repaired, and breaks again: that is news.
    pages["http://page/"] = exposition(1)
    served.look(T0)
    pages["http://page/"] = PAGE
    served.look(T0)
    assert len(caplog.records) == 4
