"""The REST side against its own OpenAPI document, by schemathesis: generated valid and invalid requests."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serving.running import Predictor, running_predictor
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    flags = ("--max-instances", "20", "--max-text-chars", "200")
    with running_predictor(Path(bundle), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def api(predictor: Predictor) -> Any:
    return schemathesis.openapi.from_url(f"{predictor.url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("path", ["/v1/models/hscode:predict", "/v1/models/hscode:explain", "/v2/models/hscode/infer"])
def test_answers_to_generated_requests_are_as_the_document_says(api: Any, path: str, mode: GenerationMode) -> None:
    operation = api[path]["POST"]
    statuses = Counter[int]()

    # A document cannot say that a tensor's shape and data must agree: such requests are valid to it and refused by us.
    unsaid = [positive_data_acceptance] if path.startswith("/v2") else []

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        statuses[case.call_and_validate(excluded_checks=unsaid).status_code] += 1

    ask()
    valid_v1 = mode is GenerationMode.POSITIVE and path.startswith("/v1")
    assert statuses[200 if valid_v1 else 400] > 0, statuses


def test_every_page_is_as_the_document_says(api: Any) -> None:
    pages = [result.ok() for result in api.get_all_operations() if result.ok().method == "get"]
    assert len(pages) == 10
    for operation in pages:
        assert operation.Case().call_and_validate().status_code == 200


def test_the_document_is_openapi(predictor: Predictor) -> None:
    document = httpx.get(f"{predictor.url}/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert "/v1/models/hscode:predict" in document["paths"]
