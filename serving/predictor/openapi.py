"""The OpenAPI document of the REST side; `GET /openapi.json` gives it, and schemathesis holds the server to it."""

from typing import Any

from serving.predictor.options import Limits
from serving.predictor.request import DIGITS

Schema = dict[str, Any]


def document(name: str, version: str, limits: Limits) -> Schema:
    """OpenAPI 3.1 for the model `name`, with the limits of this process."""
    v1, v2 = f"/v1/models/{name}", f"/v2/models/{name}"
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{name}: Harmonized System codes from descriptions of goods", "version": version},
        "paths": {
            f"{v1}:predict": {
                "post": _post("predict", "Codes for descriptions", "Instances", "Predictions"),
            },
            f"{v1}:explain": {
                "post": _post("explain", "Why these codes", "InstancesToExplain", "Explanations"),
            },
            f"{v2}/infer": {
                "post": _post("infer", "The same by the Open Inference Protocol", "InferRequest", "InferResponse"),
            },
            "/": {"get": _get("live_v1", "The process lives")},
            "/v1/models": {"get": _get("models_v1", "Names of models")},
            v1: {"get": _get("ready_v1", "Readiness of the model", 503)},
            "/v2": {"get": _get("server_metadata", "Server metadata")},
            "/v2/health/live": {"get": _get("live", "The process lives")},
            "/v2/health/ready": {"get": _get("ready", "Readiness of the server", 503)},
            "/v2/models": {"get": _get("models", "Names of models")},
            v2: {"get": _get("model_metadata", "Inputs, outputs and version of the model")},
            f"{v2}/ready": {"get": _get("model_ready", "Readiness of the model", 503)},
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Prometheus metrics",
                    "responses": {"200": {"description": "Text format", "content": {"text/plain": {}}}},
                }
            },
        },
        "components": {"schemas": _schemas(limits)},
    }


def _get(identifier: str, summary: str, other: int | None = None) -> Schema:
    responses = {"200": _response("Done", {"type": "object"})}
    if other:
        responses[str(other)] = _response("Not yet, or draining", {"type": "object"})
    return {"operationId": identifier, "summary": summary, "responses": responses}


def _post(identifier: str, summary: str, request: str, response: str) -> Schema:
    answered = _response("Answered", {"$ref": f"#/components/schemas/{response}"})
    answered["headers"] = {
        header: {"schema": {"type": "string"}, "required": True} for header in ("hs-model-version", "hs-model-edition")
    }
    reasons = {
        400: "The request is wrong; the error says what and where",
        413: "The body is over the limit that the error names",
        415: "Content encoding or event batch that is not taken",
        503: "Too much is waiting; come again after Retry-After seconds",
    }
    return {
        "operationId": identifier,
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{request}"}}},
        },
        "responses": {"200": answered}
        | {str(s): _response(r, {"$ref": "#/components/schemas/Error"}) for s, r in reasons.items()},
    }


def _response(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(properties: Schema, optional: tuple[str, ...] = (), more: bool = False) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": more,
    }


def _list(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def _schemas(limits: Limits) -> Schema:
    text = {"type": "string", "maxLength": limits.text_chars}
    confidence = {"type": "number", "minimum": 0, "maximum": 1}
    code = {"type": "string", "pattern": "^([0-9]{2}|[0-9]{4}|[0-9]{6})$"}
    instance = _object(
        {
            "description": text,
            "digits": {"enum": [*DIGITS, None]},
            "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": limits.candidates},
        },
        ("digits", "limit"),
    )
    level = _object({"code": code, "confidence": confidence})
    model = _object({"name": {"type": "string"}, "version": {"type": "string"}, "edition": {"type": "string"}})
    prediction = _object(
        {
            "code": {"type": "string", "pattern": "^([0-9]{2}|[0-9]{4}|[0-9]{6})?$"},
            "digits": {"enum": [0, *DIGITS]},
            "confidence": confidence,
            "status": {"enum": ["answered", "shortened", "vague", "unsure"]},
            "levels": _object({str(d): level for d in DIGITS}, tuple(str(d) for d in DIGITS)),
            "candidates": _list(_object({"code": code, "confidence": confidence, "text": {"type": "string"}})),
        }
    )
    tensor = {"name": {"type": "string"}, "shape": _list({"type": "integer", "minimum": 0}, minItems=1)}
    parameters: Schema = {"type": "object"}
    outputs = ("code", "confidence", "status", "answer")
    return {
        "Error": _object({"error": {"type": "string"}}),
        "Instances": _instances(text, instance, limits.instances),
        "InstancesToExplain": _instances(text, instance, limits.most_explained),
        "Predictions": _object({"predictions": _list(prediction, minItems=1), "model": model}),
        "Explanations": _object({"explanations": _list({"type": "object"}, minItems=1), "model": model}),
        "InferRequest": _object(
            {
                "id": {"type": "string"},
                "parameters": parameters,
                "inputs": _list(
                    {"oneOf": [_tensor("description", "BYTES", text), _tensor("digits"), _tensor("limit")]}, minItems=1
                ),
                "outputs": _list(_object({"name": {"enum": list(outputs)}, "parameters": parameters}, ("parameters",))),
            },
            ("id", "parameters", "outputs"),
            more=True,
        ),
        "InferResponse": _object(
            {
                "id": {"type": "string"},
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "parameters": parameters,
                "outputs": _list(
                    _object(
                        {
                            **tensor,
                            "datatype": {"enum": ["BYTES", "FP64"]},
                            "data": _list({"type": ["string", "number"]}),
                            "parameters": parameters,
                        },
                        ("parameters",),
                    )
                ),
            }
        ),
    }


def _instances(text: Schema, instance: Schema, most: int) -> Schema:
    several = _list({"oneOf": [text, instance]}, minItems=1, maxItems=most)
    return {"oneOf": [_object({"instances": several}, more=True), instance]}


def _tensor(name: str, datatype: str = "INT32", element: Schema | None = None) -> Schema:
    return _object(
        {
            "name": {"const": name},
            "shape": _list({"type": "integer", "minimum": 0}, minItems=1),
            "datatype": {"const": datatype},
            "parameters": {"type": "object"},
            "data": _list(element or {"type": "integer"}),
        },
        ("parameters",),
        more=True,
    )
