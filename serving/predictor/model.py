"""The `kserve.Model`: the bundle behind KServe's interface, whatever protocol a request came by."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from kserve.errors import InvalidInput
from kserve.model import Model
from kserve.protocol.infer_type import InferInput, InferOutput, InferRequest, InferResponse, to_http_parameters

from serving.predictor import metrics
from serving.predictor.engine import Engine
from serving.predictor.options import Limits
from serving.predictor.request import Instance, Refused, instances_from_columns, instances_of, read_json

INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")


class Answerer(Protocol):
    """What the predictor needs of a bundle (models.bundle.Bundle)."""

    version: str
    edition: str
    kind: str

    def answer(self, instances: Sequence[Any], /) -> list[dict[str, Any]]:
        """The design's prediction objects, one an instance."""

    def explain(self, instances: Sequence[Any], /) -> list[dict[str, Any]]:
        """The design's explanations, one an instance."""


class HSModel(Model):  # type: ignore[misc]
    """Answers and explains HS codes; takes what KServe hands over: a dict (v1), an InferRequest (v2), bytes."""

    def __init__(
        self, name: str, bundle: Answerer, engine: Engine, limits: Limits | None = None, version: str | None = None
    ) -> None:
        super().__init__(name, return_response_headers=True)
        self.bundle, self.worker = bundle, engine
        self.limits = limits or Limits()
        self._explain_limits = replace(self.limits, instances=self.limits.most_explained)
        self.version = version or bundle.version
        self._answer, self._explain = bundle.answer, bundle.explain
        self.identity = {"name": name, "version": self.version, "edition": bundle.edition}
        self.headers = {
            "hs-model-version": _header(self.version),
            "hs-model-edition": _header(bundle.edition),
        }
        metrics.MODEL.labels(name, self.version, bundle.edition, bundle.kind).set(1)
        metrics.WAITING.set_function(lambda: engine.waiting)
        self.ready = True

    def load(self) -> bool:
        """The bundle is loaded before the model is made."""
        return bool(self.ready)

    def start(self) -> None:
        """Start the engine's thread."""
        self.worker.start()

    def get_input_types(self) -> list[dict[str, Any]]:
        """v2 metadata: `description`, and per instance or for all `digits` and `limit`, which may be left out."""
        return [
            {"name": "description", "datatype": "BYTES", "shape": [-1]},
            {"name": "digits", "datatype": "INT32", "shape": [-1]},
            {"name": "limit", "datatype": "INT32", "shape": [-1]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """v2 metadata: the answer's parts as columns, and the whole of it as JSON in `answer`."""
        return [
            {"name": "code", "datatype": "BYTES", "shape": [-1]},
            {"name": "confidence", "datatype": "FP64", "shape": [-1]},
            {"name": "status", "datatype": "BYTES", "shape": [-1]},
            {"name": "answer", "datatype": "BYTES", "shape": [-1]},
        ]

    async def predict(
        self, payload: Any, headers: Mapping[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> Any:
        """Answers in the form of the request: the design's object for v1, an InferResponse for v2."""
        over_grpc = isinstance(payload, InferRequest) and payload.from_grpc
        try:
            instances = self._instances(payload)
            answers = await self.worker.run(self._answer, instances)
        except Refused as refused:
            if not over_grpc:
                raise
            metrics.REQUESTS.labels("grpc", "predict", str(refused.status)).inc()
            raise _for_grpc(refused) from None
        for answer in answers:
            metrics.ANSWERS.labels(answer["status"]).inc()
        if response_headers is not None:
            response_headers.update(self.headers)
        if not isinstance(payload, InferRequest):
            return {"predictions": answers, "model": self.identity}
        if over_grpc:
            metrics.REQUESTS.labels("grpc", "predict", "200").inc()
        return self._infer_response(payload, answers)

    async def explain(self, payload: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Explanations of v1 instances, with the model's name, version and edition."""
        from models.explain import cost

        instances = instances_of(payload, self._explain_limits)
        rows = sum(cost(one["description"]) for one in instances)
        explanations = await self.worker.run(self._explain, instances, rows)
        return {"explanations": explanations, "model": self.identity}

    def validate(self, payload: Any) -> Any:
        """Checked by `predict` and `explain`, which say more."""
        return payload

    def _instances(self, payload: Any) -> list[Instance]:
        if isinstance(payload, InferRequest):
            return self._from_v2(payload)
        if isinstance(payload, (bytes, bytearray)):
            payload = read_json(payload)
        return instances_of(payload, self.limits)

    def _from_v2(self, request: InferRequest) -> list[Instance]:
        tensors: dict[str, list[Any]] = {}
        for tensor in request.inputs:
            if tensor.name in tensors:
                raise Refused(400, f"input {tensor.name!r} is given twice")
            tensors[tensor.name] = _values(tensor)
        descriptions = tensors.pop("description", None)
        if descriptions is None:
            raise Refused(400, 'there is no input "description" (BYTES)')
        parameters = to_http_parameters(request.parameters or {})
        columns = {}
        for name in ("digits", "limit"):
            columns[name] = tensors.pop(name, [parameters[name]] if name in parameters else [])
        if tensors:
            raise Refused(400, f"unknown input {next(iter(tensors))!r}; known are description, digits, limit")
        return instances_from_columns(descriptions, columns["digits"], columns["limit"], self.limits)

    def _infer_response(self, request: InferRequest, answers: list[dict[str, Any]]) -> InferResponse:
        import orjson

        n = len(answers)
        columns = {
            "code": [a["code"] for a in answers],
            "confidence": [a["confidence"] for a in answers],
            "status": [a["status"] for a in answers],
            "answer": [orjson.dumps(a).decode() for a in answers],
        }
        wanted = [o.name for o in request.request_outputs or ()]
        unknown = [name for name in wanted if name not in columns]
        if unknown:
            refused = Refused(400, f"unknown output {unknown[0]!r}; known are {', '.join(columns)}")
            raise _for_grpc(refused) if request.from_grpc else refused
        outputs = [
            InferOutput(kind["name"], [n], kind["datatype"], data=columns[kind["name"]])
            for kind in self.get_output_types()
            if not (request.from_grpc and wanted) or kind["name"] in wanted
        ]
        return InferResponse(
            response_id=request.id or "",
            model_name=self.name,
            model_version=self.version,
            infer_outputs=outputs,
            parameters={"edition": self.bundle.edition},
            use_binary_outputs=request.use_binary_outputs,
            requested_outputs=request.request_outputs,
        )


def _values(tensor: InferInput) -> list[Any]:
    """The tensor's elements, flat; 400 where name, type, shape and data do not fit together."""
    where = f"input {tensor.name!r}"
    if tensor.name == "description" and tensor.datatype != "BYTES":
        raise Refused(400, f"{where} must be BYTES, not {tensor.datatype}")
    if tensor.name in ("digits", "limit") and tensor.datatype not in INTEGERS:
        raise Refused(400, f"{where} must be an integer type, not {tensor.datatype}")
    if tensor._raw_data is not None:
        try:
            values = cast(list[Any], tensor.as_numpy().reshape(-1).tolist())
        except Exception:
            raise Refused(400, f"the raw bytes of {where} do not fit its shape {tensor.shape}") from None
    else:
        values = list(tensor.data or ())
        while values and isinstance(values[0], list):
            if not all(isinstance(v, list) for v in values):
                raise Refused(400, f"the data of {where} is ragged")
            values = [element for row in values for element in row]
    size = 1
    for side in tensor.shape:
        size *= side
    if size != len(values):
        raise Refused(400, f"{where} has shape {list(tensor.shape)} and {len(values)} values")
    return values


def _for_grpc(refused: Refused) -> Exception:
    if refused.status == 503:
        from grpc_interceptor.exceptions import Unavailable

        return cast(Exception, Unavailable(refused.reason))
    return cast(Exception, InvalidInput(refused.reason))


def _header(value: str) -> str:
    return "".join(c if 32 < ord(c) < 127 else "-" for c in value)
