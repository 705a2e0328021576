"""The predictor over every protocol, asked by the clients that people use: KServe's own, the CloudEvents SDK, httpx."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import Bundle
from tests.serving.running import Predictor, running_predictor
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.slow

TEXTS = [
    "Ladies' cotton T-shirts, knitted",
    "wireless headphones",
    "gift items",
    "horse",
    "knitted t-shirt",
    "vacuum flask, stainless steel, 500 ml",
    "zzz qqq",
    "",
    "   ",
    "naïve café — Übergröße 中文",
    "tableware plates of porcelain for the kitchen " * 20,
    '\u0000\n\t"quotes" and \\ 😀',
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Iterator[Predictor]:
    flags = ("--max-body-bytes", "60000", "--max-instances", "40", "--max-text-chars", "1500")
    with running_predictor(bundle, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def http(predictor: Predictor) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=predictor.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def expected(bundle: Path) -> list[str]:
    """The answer to each text alone, from the bundle itself, as compact JSON."""
    import orjson

    loaded = Bundle.load(bundle)
    return [orjson.dumps(loaded.answer([text])[0]).decode() for text in TEXTS]


def compact(answers: list[Any]) -> list[str]:
    return [json.dumps(a, separators=(",", ":"), ensure_ascii=False) for a in answers]


PREDICT, EXPLAIN, INFER = (
    "/v1/models/hscode:predict",
    "/v1/models/hscode:explain",
    "/v2/models/hscode/infer",
)


def v2(texts: list[str], **more: Any) -> dict[str, Any]:
    tensor = {"name": "description", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return {"inputs": [tensor], **more}


# -- the same bytes ------------------------------------------------------------------------------------------------


def test_v1_gives_the_bundles_bytes_alone_and_in_a_batch(http: httpx.Client, expected: list[str]) -> None:
    model = '"model":{"name":"hscode","version":"3","edition":"HS2022"}'
    for text, answer in zip(TEXTS, expected, strict=True):
        assert http.post(PREDICT, json={"instances": [text]}).text == f'{{"predictions":[{answer}],{model}}}'
    batch = http.post(PREDICT, json={"instances": TEXTS})
    assert batch.text == f'{{"predictions":[{",".join(expected)}],{model}}}'
    backwards = http.post(PREDICT, json={"instances": [{"description": t} for t in TEXTS[::-1]]})
    assert backwards.text == f'{{"predictions":[{",".join(expected[::-1])}],{model}}}'


def test_neighbours_of_other_requests_do_not_change_a_byte(predictor: Predictor, expected: list[str]) -> None:
    async def ask() -> list[str]:
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(base_url=predictor.url, limits=limits, timeout=60) as client:
            asked = [client.post(PREDICT, json={"instances": [t]}) for t in TEXTS * 20]
            return [response.text for response in await asyncio.gather(*asked)]

    for i, body in enumerate(asyncio.run(ask())):
        assert body.startswith(f'{{"predictions":[{expected[i % len(TEXTS)]}]')


def test_v2_rest_gives_the_same_bytes(http: httpx.Client, expected: list[str]) -> None:
    response = http.post(INFER, json=v2(TEXTS, id="q1"))
    outputs = {o["name"]: o for o in response.json()["outputs"]}
    assert outputs["answer"]["data"] == expected
    assert outputs["code"]["data"] == [json.loads(e)["code"] for e in expected]
    assert outputs["confidence"]["data"] == [json.loads(e)["confidence"] for e in expected]
    assert outputs["status"]["data"] == [json.loads(e)["status"] for e in expected]
    assert {o["datatype"] for o in outputs.values()} == {"BYTES", "FP64"}
    assert response.json()["id"] == "q1"
    assert response.json()["model_version"] == "3"


def test_kserves_rest_client_gets_the_same_answers(predictor: Predictor, expected: list[str]) -> None:
    import numpy as np
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    async def ask(binary: bool) -> Any:
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        tensor = InferInput("description", [len(TEXTS)], "BYTES")
        tensor.set_data_from_numpy(np.array([t.encode() for t in TEXTS], dtype=np.object_), binary_data=binary)
        request = InferRequest("hscode", [tensor], parameters={"binary_data_output": True} if binary else None)
        assert await client.is_server_live(predictor.url)
        assert await client.is_server_ready(predictor.url)
        assert await client.is_model_ready(predictor.url, "hscode")
        return await client.infer(predictor.url, request, model_name="hscode")

    for binary in (False, True):
        response = asyncio.run(ask(binary))
        answers = [a.decode() if isinstance(a, bytes) else a for a in response.get_output_by_name("answer").data]
        assert answers == expected

    async def ask_v1() -> Any:
        client = InferenceRESTClient(RESTConfig(protocol="v1"))
        return await client.infer(predictor.url, {"instances": TEXTS}, model_name="hscode")

    assert compact(asyncio.run(ask_v1())["predictions"]) == expected


def test_kserves_grpc_client_gets_the_same_answers(predictor: Predictor, expected: list[str]) -> None:
    import numpy as np
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def ask(raw: bool) -> Any:
        async with InferenceGRPCClient(f"127.0.0.1:{predictor.grpc_port}") as client:
            tensor = InferInput("description", [len(TEXTS)], "BYTES")
            if raw:
                tensor.set_data_from_numpy(np.array([t.encode() for t in TEXTS], dtype=np.object_))
            else:
                tensor.data = [t.encode() for t in TEXTS]
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("hscode")
            return await client.infer(InferRequest("hscode", [tensor], request_id="g1"))

    for raw in (False, True):
        response = asyncio.run(ask(raw))
        assert response.id == "g1"
        assert response.model_version == "3"
        answers = response.get_output_by_name("answer")
        texts = list(answers.as_numpy()) if raw else answers.data
        assert [t.decode() for t in texts] == expected


def test_events_in_both_modes_give_the_same_answers(http: httpx.Client, expected: list[str]) -> None:
    from cloudevents.conversion import to_binary, to_structured
    from cloudevents.http import CloudEvent, from_http

    attributes = {"type": "customs.declared", "source": "/broker/7", "id": "declaration-42"}
    event = CloudEvent(attributes, {"instances": TEXTS})
    for convert in (to_binary, to_structured):
        headers, body = convert(event)
        for content_type in {headers.get("content-type", ""), headers.get("content-type", "") + "; charset=utf-8"}:
            response = http.post(PREDICT, content=body, headers={**headers, "content-type": content_type})
            assert response.status_code == 200, response.text
            answer = from_http(dict(response.headers), response.content)
            data = answer.data
            assert compact(data["predictions"]) == expected
            assert answer["type"] == "io.kserve.inference.response"
            assert answer["source"] == "io.kserve.inference.hscode"
            assert answer["id"] == "declaration-42"
            assert answer["hsmodelversion"] == "3"


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream", None]
)
def test_a_body_of_any_content_type_is_read_as_json(
    http: httpx.Client, expected: list[str], content_type: str | None
) -> None:
    body = json.dumps({"instances": TEXTS[:1]}).encode()
    response = http.post(PREDICT, content=body, headers={"content-type": content_type} if content_type else {})
    assert compact(response.json()["predictions"]) == expected[:1]


# -- what can be asked ---------------------------------------------------------------------------------------------


def test_digits_and_limit_by_every_protocol(http: httpx.Client) -> None:
    one = http.post(PREDICT, json={"instances": [{"description": "headphones", "digits": 4, "limit": 2}]})
    answer = one.json()["predictions"][0]
    assert (answer["code"], answer["digits"], len(answer["candidates"])) == ("8518", 4, 2)
    alone = http.post(PREDICT, json={"description": "headphones", "digits": 4, "limit": 2})
    assert alone.content == one.content
    by_parameters = http.post(INFER, json=v2(["headphones"], parameters={"digits": 4, "limit": 2}))
    tensors = v2(["headphones"])
    tensors["inputs"] += [
        {"name": "digits", "shape": [1], "datatype": "INT32", "data": [4]},
        {"name": "limit", "shape": [1], "datatype": "INT64", "data": [2]},
    ]
    for response in (by_parameters, http.post(INFER, json=tensors)):
        outputs = {o["name"]: o["data"] for o in response.json()["outputs"]}
        assert compact([answer]) == outputs["answer"]


def test_requested_outputs_only(http: httpx.Client) -> None:
    response = http.post(INFER, json=v2(["headphones"], outputs=[{"name": "code"}])).json()
    assert [o["name"] for o in response["outputs"]] == ["code"]


def test_metadata_and_readiness(http: httpx.Client) -> None:
    assert http.get("/").json() == {"status": "alive"}
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v1/models").json() == {"models": ["hscode"]}
    assert http.get("/v1/models/hscode").json() == {"name": "hscode", "ready": True}
    assert http.get("/v2/models/hscode/ready").json() == {"name": "hscode", "ready": True}
    metadata = http.get("/v2/models/hscode").json()
    assert metadata["versions"] == ["3"]
    assert metadata["inputs"][0] == {"name": "description", "datatype": "BYTES", "shape": [-1]}
    assert [o["name"] for o in metadata["outputs"]] == ["code", "confidence", "status", "answer"]
    assert http.get("/v2").json()["name"] == "kserve"
    assert http.post("/v2/models/hscode/versions/3/infer", json=v2(["x"])).status_code == 200
    assert http.post("/v2/models/hscode/versions/4/infer", json=v2(["x"])).status_code == 404


def test_version_and_edition_are_in_the_headers_and_the_requests_are_not(http: httpx.Client) -> None:
    for path, body in ((PREDICT, {"instances": ["x"]}), (EXPLAIN, {"instances": ["x"]}), (INFER, v2(["x"]))):
        response = http.post(path, json=body, headers={"authorization": "Bearer secret"})
        assert response.status_code == 200, response.text
        assert response.headers["hs-model-version"] == "3"
        assert response.headers["hs-model-edition"] == "HS2022"
        assert "authorization" not in response.headers


def test_explanations_are_deterministic_and_say_who_answered(http: httpx.Client) -> None:
    first = http.post(EXPLAIN, json={"instances": TEXTS[:2]})
    assert first.status_code == 200, first.text
    assert http.post(EXPLAIN, json={"instances": TEXTS[:2]}).content == first.content
    body = first.json()
    assert len(body["explanations"]) == 2
    assert body["model"] == {"name": "hscode", "version": "3", "edition": "HS2022"}


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (PREDICT, b"", 400, "empty"),
        (PREDICT, b"{", 400, "not JSON"),
        (PREDICT, b"\xff\xfe", 400, "not JSON"),
        (PREDICT, b'["a"]', 400, "not a list"),
        (PREDICT, b"{}", 400, '"instances" is missing'),
        (PREDICT, b'{"instances": "a"}', 400, "must be a list, not a string"),
        (PREDICT, b'{"instances": []}', 400, "no instances"),
        (PREDICT, b'{"instances": ["a", 5]}', 400, "instances[1]"),
        (PREDICT, b'{"instances": [null]}', 400, "instances[0]"),
        (PREDICT, b'{"instances": [{"description": 1}]}', 400, "instances[0]"),
        (PREDICT, b'{"instances": [{"description": "a", "digits": 8}]}', 400, "2, 4 or 6"),
        (PREDICT, b'{"instances": [{"description": "a", "digits": true}]}', 400, "2, 4 or 6"),
        (PREDICT, b'{"instances": [{"description": "a", "limit": 21}]}', 400, "1 to 20"),
        (PREDICT, b'{"instances": [{"description": "a", "digit": 4}]}', 400, "'digit'"),
        (PREDICT, json.dumps({"instances": ["a"] * 41}).encode(), 400, "the limit is 40"),
        (EXPLAIN, json.dumps({"instances": ["a"] * 11}).encode(), 400, "the limit is 10"),
        (PREDICT, json.dumps({"instances": ["a" * 1501]}).encode(), 400, "the limit is 1500"),
        (PREDICT, b'{"instances": ["' + b"a" * 60_000 + b'"]}', 413, "60000"),
        (INFER, b"{}", 400, '"inputs"'),
        (INFER, json.dumps(v2(["a"] * 41)).encode(), 400, "the limit is 40"),
        (
            INFER,
            b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}',
            400,
            "description",
        ),
        (
            INFER,
            b'{"inputs": [{"name": "description", "shape": [2], "datatype": "BYTES", "data": ["a"]}]}',
            400,
            "shape",
        ),
        (INFER, b'{"inputs": [{"name": "description", "shape": [1], "datatype": "FP32", "data": [1]}]}', 400, "BYTES"),
        (INFER, b'{"inputs": [{"name": "description", "shape": [1], "datatype": "BYTES"}]}', 400, "data"),
        (INFER, json.dumps(v2(["a"], outputs=[{"name": "nope"}])).encode(), 400, "nope"),
    ],
)
def test_what_is_wrong_is_said(http: httpx.Client, path: str, body: bytes, status: int, says: str) -> None:
    response = http.post(path, content=body)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert says in response.json()["error"]
    assert "\n" not in response.json()["error"]


def test_wrong_paths_methods_and_encodings(http: httpx.Client) -> None:
    assert http.get("/nope").status_code == 404
    other = http.post("/v1/models/other:predict", json={"instances": ["a"]})
    assert other.status_code == 404
    assert "'other'" in other.json()["error"]
    assert http.get(PREDICT).status_code == 405
    assert http.get(PREDICT).headers["allow"] == "POST"
    assert http.post("/v2/health/live").status_code == 405
    assert http.post(PREDICT, content=b"x", headers={"content-encoding": "gzip"}).status_code == 415
    assert http.post("/v2/repository/models/hscode/unload").status_code == 404


def test_a_body_without_length_is_limited_too(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    assert http.post(PREDICT, content=chunks()).status_code == 413


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        ({"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t"}, b'{"instances": ["a"]}', "source"),
        ({"ce-specversion": "0.3", "ce-id": "1", "ce-type": "t", "ce-source": "s"}, b"{}", "1.0"),
        ({"content-type": "application/cloudevents+json"}, b"[]", "JSON object"),
        ({"content-type": "application/cloudevents+json"}, b'{"id": "1"}', "source"),
    ],
)
def test_broken_events(http: httpx.Client, headers: dict[str, str], body: bytes, says: str) -> None:
    response = http.post(PREDICT, content=body, headers=headers)
    assert response.status_code == 400
    assert says in response.json()["error"]


def test_batches_of_events_are_refused(http: httpx.Client) -> None:
    headers = {"content-type": "application/cloudevents-batch+json"}
    assert http.post(PREDICT, content=b"[]", headers=headers).status_code == 415


def test_grpc_refuses_with_the_reason(predictor: Predictor) -> None:
    import grpc
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def ask(name: str, tensor: Any) -> Any:
        async with InferenceGRPCClient(f"127.0.0.1:{predictor.grpc_port}") as client:
            with pytest.raises(grpc.RpcError) as raised:
                await client.infer(InferRequest(name, [tensor]))
            return raised.value.code().name, raised.value.details()

    many = InferInput("description", [41], "BYTES", data=[b"a"] * 41)
    assert asyncio.run(ask("hscode", many)) == ("INVALID_ARGUMENT", "41 instances; the limit is 40 a request")
    bad = InferInput("description", [1], "BYTES", data=[b"\xff"])
    assert asyncio.run(ask("hscode", bad)) == ("INVALID_ARGUMENT", "description[0] is not UTF-8")
    assert asyncio.run(ask("other", bad))[0] == "NOT_FOUND"


def test_metrics_count_by_protocol_and_status(http: httpx.Client) -> None:
    def value(line: str) -> float:
        found = [row for row in http.get("/metrics").text.splitlines() if row.startswith(line)]
        return float(found[0].split()[-1]) if found else 0.0

    answered = 'hs_predictor_requests_total{code="200",protocol="v1",verb="predict"}'
    refused = 'hs_predictor_requests_total{code="400",protocol="v2",verb="infer"}'
    before = value(answered), value(refused), value('hs_predictor_answers_total{status="vague"}')
    http.post(PREDICT, json={"instances": ["gift items", "gift items"]})
    http.post(INFER, json={})
    after = value(answered), value(refused), value('hs_predictor_answers_total{status="vague"}')
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 2]
    assert value('hs_predictor_model_info{edition="HS2022",kind="tiny",name="hscode",version="3"}') == 1
    assert value("hs_predictor_waiting_instances") == 0
