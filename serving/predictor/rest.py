"""The REST side: an ASGI application over KServe's data plane.

It answers the paths of KServe's own application (v1, v2, health, metrics) and goes through the same `DataPlane.infer`
and `kserve.Model`, but reads the body with a limit, takes JSON by any content type, names what is wrong in 4xx, and
says 503 with Retry-After instead of letting a line grow.

It is plain ASGI because a request's way through FastAPI costs more than the model (benchmarks/serving.py), and
importing FastAPI more than the rest of the start (benchmarks/coldstart.py).
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import InferInput, InferRequest, InferResponse, RequestedOutput
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serving.predictor import events, metrics
from serving.predictor.model import HSModel
from serving.predictor.request import Refused, read_json

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""

JSON = {"content-type": "application/json"}
JSON_LENGTH = "inference-header-content-length"
DISCARDED_AT_MOST = 16_777_216
"""Bytes of a body over the limit that are read and dropped, so that the client gets to read the 413."""


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Rest:
    """The application. `draining` set: answers say `connection: close`. Readiness is 503 then, and while `reachable` is
    not set."""

    def __init__(self, dataplane: DataPlane, model: HSModel, access_log: bool = False) -> None:
        self.dataplane, self.model, self.access_log = dataplane, model, access_log
        self.draining, self.reachable = False, True
        name = model.name
        self._pages: dict[str, Callable[[], Awaitable[Answer]]] = {
            "/": self._live_v1,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/v1/models": self._models,
            f"/v1/models/{name}": self._ready_v1,
            "/v2": self._server,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/v2/models": self._models,
        }
        self._verbs: dict[str, tuple[str, str, Callable[[Mapping[str, str], bytes], Awaitable[Answer]]]] = {
            f"/v1/models/{name}:predict": ("v1", "predict", self._predict),
            f"/v1/models/{name}:explain": ("v1", "explain", self._explain),
        }
        for prefix in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{model.version}"):
            self._pages[prefix] = self._metadata
            self._pages[f"{prefix}/ready"] = self._model_ready
            self._verbs[f"{prefix}/infer"] = ("v2", "infer", self._infer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not served")
        path, method = scope["path"], scope["method"]
        verb = self._verbs.get(path)
        started = time.perf_counter()
        try:
            if verb is None:
                status, headers, body = await self._page(path, method)
            elif method != "POST":
                status, headers, body = _refusal(Refused(405, f"{method} is not for this path; POST is"), allow="POST")
            else:
                request_headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
                content = await self._body(request_headers, receive)
                started = time.perf_counter()
                status, headers, body = await verb[2](request_headers, content)
        except Refused as refused:
            status, headers, body = _refusal(refused)
        except InvalidInput as error:
            status, headers, body = _refusal(Refused(400, str(error)))
        except Disconnected:
            return
        except Exception as error:
            log.exception("%s %s failed", method, path)
            status, headers, body = _refusal(Refused(500, f"internal error ({type(error).__name__})"))
        if verb is not None:
            metrics.REQUESTS.labels(verb[0], verb[1], str(status)).inc()
            metrics.SECONDS.labels(verb[0], verb[1]).observe(time.perf_counter() - started)
            headers |= self.model.headers
        if self.draining or status == 413:
            headers["connection"] = "close"
        if self.access_log:
            log.info("%s %s %d %.1f ms", method, path, status, (time.perf_counter() - started) * 1e3)
        headers["content-length"] = str(len(body))
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
            }
        )
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def _page(self, path: str, method: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            parts = path.split("/")
            if len(parts) > 3 and parts[1] in ("v1", "v2") and parts[2] == "models":
                named = parts[3].partition(":")[0]
                if named != self.model.name:
                    raise Refused(404, f"there is no model {named[:80]!r}; here is {self.model.name!r}")
            raise Refused(404, f"there is nothing at {path[:120]!r}")
        if method not in ("GET", "HEAD"):
            return _refusal(Refused(405, f"{method} is not for this path; GET is"), allow="GET, HEAD")
        return await page()

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        limit = self.model.limits.body_bytes
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise Refused(415, f"content-encoding {encoding[:20]!r} is not taken; send the body as it is")
        length = headers.get("content-length")
        over = length is not None and length.isdigit() and int(length) > limit
        if over and (headers.get("expect") or int(length or 0) > DISCARDED_AT_MOST):
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                over = True
                chunks.clear()
            elif chunk:
                chunks.append(chunk)
            if not message.get("more_body"):
                break
            if size > DISCARDED_AT_MOST:
                break
        if over:
            raise _too_large(limit)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _predict(self, headers: Mapping[str, str], body: bytes) -> Answer:
        data, event = events.unwrap(headers, body)
        payload = read_json(data) if isinstance(data, bytes) else data
        answer, _ = await self.dataplane.infer(self.model.name, payload, headers=headers)
        return self._json(answer, event)

    async def _explain(self, headers: Mapping[str, str], body: bytes) -> Answer:
        data, event = events.unwrap(headers, body)
        payload = read_json(data) if isinstance(data, bytes) else data
        answer, _ = await self.dataplane.explain(self.model.name, payload, headers={})
        return self._json(answer, event)

    def _json(self, answer: Mapping[str, Any], event: events.Event | None) -> Answer:
        body = orjson.dumps(answer)
        if event is None:
            return 200, dict(JSON), body
        return 200, *events.wrap(event, body, self.model.identity)

    async def _infer(self, headers: Mapping[str, str], body: bytes) -> Answer:
        data, event = events.unwrap(headers, body)
        request = _infer_request(data, headers, self.model.name)
        response, _ = await self.dataplane.infer(self.model.name, request, headers=headers)
        assert isinstance(response, InferResponse)
        content, json_length = response.to_rest()
        if json_length is not None:
            if event is not None:
                raise Refused(400, "binary outputs do not go into an event")
            return 200, {"content-type": "application/octet-stream", JSON_LENGTH: str(json_length)}, content
        return self._json(content, event)

    async def _live_v1(self) -> Answer:
        return _page(await self.dataplane.live())

    async def _live(self) -> Answer:
        return _page({"live": True})

    @property
    def _open(self) -> bool:
        return self.reachable and not self.draining

    async def _ready(self) -> Answer:
        ready = self._open and await self.dataplane.ready() and bool(self.model.ready)
        return _page({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self) -> Answer:
        ready = self._open and await self.dataplane.model_ready(self.model.name)
        return _page({"name": self.model.name, "ready": ready}, 200 if ready else 503)

    async def _ready_v1(self) -> Answer:
        return await self._model_ready()

    async def _models(self) -> Answer:
        return _page({"models": list(self.dataplane.model_registry.get_models())})

    async def _server(self) -> Answer:
        return _page({**self.dataplane.metadata(), "extensions": ["binary_tensor_data"]})

    async def _metadata(self) -> Answer:
        metadata = await self.dataplane.model_metadata(self.model.name)
        return _page({**metadata, "versions": [self.model.version], "platform": "onnxruntime_onnx"})

    async def _metrics(self) -> Answer:
        return 200, {"content-type": CONTENT_TYPE_LATEST}, generate_latest()

    async def _openapi(self) -> Answer:
        from serving.predictor.openapi import document

        return _page(document(self.model.name, self.model.version, self.model.limits))


def _infer_request(data: object, headers: Mapping[str, str], name: str) -> InferRequest:
    if isinstance(data, bytes) and JSON_LENGTH in headers:
        length = headers[JSON_LENGTH]
        if not length.isdigit() or int(length) > len(data):
            raise Refused(400, f"{JSON_LENGTH} must be the bytes of the body's JSON part")
        document, raw = read_json(data[: int(length)]), data[int(length) :]
    else:
        document, raw = read_json(data) if isinstance(data, bytes) else data, b""
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise Refused(400, 'the body must be a JSON object with a list "inputs"')
    parameters = _parameters(document, "the request")
    inputs = []
    for i, given in enumerate(document["inputs"]):
        where = f"inputs[{i}]"
        if not isinstance(given, dict) or not all(isinstance(given.get(k), str) for k in ("name", "datatype")):
            raise Refused(400, f'{where} must be an object with "name", "datatype", "shape" and "data"')
        shape = given.get("shape")
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise Refused(400, f'"shape" of {where} must be a list of whole numbers')
        tensor = InferInput(given["name"], shape, given["datatype"])
        size = _parameters(given, where).get("binary_data_size")
        if "data" in given:
            if not isinstance(given["data"], list):
                raise Refused(400, f'"data" of {where} must be a list')
            tensor.data = given["data"]
        elif type(size) is int and 0 <= size <= len(raw):
            tensor._raw_data, raw = raw[:size], raw[size:]
        else:
            raise Refused(400, f'{where} has neither "data" nor a "binary_data_size" that the body fills')
        inputs.append(tensor)
    outputs = document.get("outputs")
    if outputs is not None and not (
        isinstance(outputs, list) and all(isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs)
    ):
        raise Refused(400, '"outputs" must be a list of objects with a "name"')
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise Refused(400, '"id" must be a string')
    binary = bool(parameters.get("binary_data_output"))
    return InferRequest(
        model_name=name,
        request_id=identifier,
        infer_inputs=inputs,
        parameters=parameters,
        request_outputs=[
            RequestedOutput(o["name"], {"binary_data": binary} | _parameters(o, f'output "{o["name"][:40]}"'))
            for o in outputs or ()
        ]
        or None,
    )


def _parameters(holder: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise Refused(400, f'"parameters" of {where} must be an object')
    return parameters or {}


def _page(content: Mapping[str, Any], status: int = 200) -> Answer:
    return status, dict(JSON), orjson.dumps(content)


def _refusal(refused: Refused, **headers: str) -> Answer:
    status, fields, body = _page({"error": refused.reason}, refused.status)
    if refused.retry_after is not None:
        fields["retry-after"] = str(refused.retry_after)
    return status, fields | headers, body


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than the limit of {limit} bytes")
