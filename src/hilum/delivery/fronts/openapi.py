"""The API of the maintained front as OpenAPI 3.1: GET /openapi.json.

What can be asked and what bodies hold stands in api/*.yaml; the models that there are, the codes of refusals and the
parts that release cards define are filled in. TorchServe answers the calls under /predictions in the same way; it has
neither the page nor /about.json, and says of its health and models what TorchServe says.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from hilum import __version__
from hilum.delivery.answering.bodies import REASONS
from hilum.delivery.card import EMBEDDINGS, GateCard, Mitigated, OperatingPoint
from hilum.delivery.fronts.asgi import House
from hilum.delivery.fronts.refusals import CODES

HERE: Final = Path(__file__).parent / "api"
REFERENCE: Final = "#/components/schemas/{model}"
PLACEHOLDER: Final = "ANSWER"


def document(house: House) -> dict[str, Any]:
    """The document of a front, for the models that it has now."""
    told = deepcopy(_file("paths.yaml"))
    labels = [question for question in house.questions if question != EMBEDDINGS]
    paths: dict[str, Any] = {}
    for path, operations in told["paths"].items():
        if "{label}" in path and not labels:
            continue
        paths[path] = {
            method: _operation(path, said, told, house.keys is not None) for method, said in operations.items()
        }
        for name, values in (("label", labels), ("model", list(house.questions))):
            if "{" + name + "}" in path:
                schema = {"type": "string", "enum": values}
                paths[path]["parameters"] = [{"name": name, "in": "path", "required": True, "schema": schema}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hilum",
            "version": __version__,
            "description": "Embeddings and predictions from X-rays and MRIs; /about.json says what they are for.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


@cache
def schemas() -> dict[str, Any]:
    """What bodies hold, by name."""
    found: dict[str, Any] = deepcopy(_file("schemas.yaml"))
    found["Refusal"]["properties"]["code"]["enum"] = sorted(CODES)
    found["InferRefusal"]["properties"]["code"]["enum"] = sorted(CODES)
    found["Abstention"]["properties"]["reason"]["enum"] = list(REASONS)
    for card in (GateCard, Mitigated, OperatingPoint):
        schema = card.model_json_schema(mode="serialization", ref_template=REFERENCE)
        found |= schema.pop("$defs", {})
        found[card.__name__] = schema
    return found


def _operation(path: str, said: dict[str, Any], told: dict[str, Any], closed: bool) -> dict[str, Any]:
    """An operation as OpenAPI has it."""
    operation = dict(said)
    given, kind, is_open = operation.pop("gives", None), operation.pop("type", None), operation.pop("open", False)
    refused = {"$ref": REFERENCE.format(model="InferRefusal" if path.endswith("/infer") else "Refusal")}
    if path.startswith("/predictions/"):
        answer = {"$ref": REFERENCE.format(model="Embedding" if path.endswith(EMBEDDINGS) else "Prediction")}
        responses = {"200": _filled(told["answered"], answer)}
    elif given is not None:
        schema = {"$ref": REFERENCE.format(model=given)} if isinstance(given, str) else given
        responses = {"200": {"description": "As asked.", "content": {"application/json": {"schema": schema}}}}
    elif kind is not None:
        responses = {"200": {"description": "A file.", "content": {kind: {"schema": {"type": "string"}}}}}
    else:
        responses = operation["responses"]
    statuses = _ALL if "requestBody" in operation else ("405", "503") if is_open else ("401", "404", "405", "503")
    for status in statuses:
        schema = (
            {"oneOf": [refused, {"$ref": REFERENCE.format(model="Refusal")}]} if path.endswith("/infer") else refused
        )
        responses[status] = {
            "description": told["refusals"][status],
            "content": {"application/json": {"schema": schema}},
        }
        if headers := _HEADERS.get(status):
            responses[status]["headers"] = headers
    if closed and not is_open:
        operation["security"] = [{"token": []}]
    return operation | {"responses": responses}


def _filled(value: Any, answer: dict[str, Any]) -> Any:
    """A template with the schema of an answer in the places that are left for it."""
    if isinstance(value, dict):
        if PLACEHOLDER in value:
            return answer
        return {key: _filled(one, answer) for key, one in value.items()}
    return [_filled(one, answer) for one in value] if isinstance(value, list) else value


@cache
def _file(name: str) -> Any:
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


# Of refusals, by status.
_HEADERS: Final = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "405": {"Allow": {"description": "The methods that there are.", "schema": {"type": "string"}}},
    "503": {"Retry-After": {"description": "Seconds, of what may pass.", "schema": {"type": "integer"}}},
}
_ALL: Final = ("400", "401", "404", "405", "406", "408", "413", "415", "422", "500", "503")
