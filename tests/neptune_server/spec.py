"""The served descriptions (Swagger 2.0, `specs/*.yaml`): what is routed, with which parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

FOLDER = Path(__file__).parent / "specs"
APIS = ("backend", "leaderboard", "artifacts")
METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Parameter:
    name: str
    place: str
    required: bool
    type: str
    item_type: str
    default: Any


@dataclass(frozen=True)
class Operation:
    operation_id: str
    method: str
    path: str
    parameters: tuple[Parameter, ...]

    @property
    def body(self) -> Parameter | None:
        return next((each for each in self.parameters if each.place == "body"), None)


@dataclass(frozen=True)
class Description:
    """One API: its operations, and its document as the client downloads it."""

    api: str
    document: bytes
    operations: tuple[Operation, ...]


def load(without: Collection[str] = ()) -> list[Description]:
    """All descriptions, less the operations that this server is to lack."""
    documents = {api: _read(api) for api in APIS}
    unknown = set(without) - {each.operation_id for document in documents.values() for each in _operations(document)}
    if unknown:
        raise ValueError(f"No such operation: {', '.join(sorted(unknown))}")
    return [_describe(api, document, without) for api, document in documents.items()]


def _read(api: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / f"{api}.yaml").read_text(encoding="utf-8"))
    return document


def _describe(api: str, document: dict[str, Any], without: Collection[str]) -> Description:
    for methods in document["paths"].values():
        for method in METHODS:
            if method in methods and methods[method]["operationId"] in without:
                del methods[method]
    return Description(api, orjson.dumps(document), tuple(_operations(document)))


def _operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        shared = methods.get("parameters", [])
        for method in METHODS:
            if method in methods:
                declared = methods[method]
                parameters = tuple(_parameter(document, each) for each in [*shared, *declared.get("parameters", [])])
                yield Operation(declared["operationId"], method.upper(), path, parameters)


def _parameter(document: dict[str, Any], declared: dict[str, Any]) -> Parameter:
    if "$ref" in declared:
        declared = document["parameters"][declared["$ref"].rpartition("/")[2]]
    schema = declared.get("schema", {})
    return Parameter(
        name=declared["name"],
        place=declared["in"],
        required=declared.get("required", False),
        type=declared.get("type") or schema.get("type", "object"),
        item_type=declared.get("items", {}).get("type", "string"),
        default=declared.get("default"),
    )
