"""What the OpenAPI document says of each call beside its bodies: id, tag, summary, examples.

It is read from `static/openapi/TAG.json` when the document is asked for. Names stay for good:
clients are generated from them. Where the Python client has a method for a call, the id is its
name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

FOLDER = files("service.http") / "static" / "openapi"
# In the order of the document.
TAGS = (
    "decisions", "rewards", "bandits", "actions", "snapshots", "log", "evaluations",
    "challengers", "server", "dashboard",
)  # fmt: skip
# Of what is part of an address.
PARAMETERS = {
    "name": "shop",
    "action_id": "ten-percent",
    "decision_id": "visit-4711",
    "evaluation_id": "01a22cfb9063d6fb9d80",
    "challenger": "network",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One call.

    Attributes:
        id: Its unique name.
        tag: The group that it is listed in.
        summary: What it does, in a few words.
        request: A body; None where it takes none, or bytes.
        answers: A body for each status of success that has one.
    """

    id: str
    tag: str
    summary: str
    request: Any
    answers: dict[str, Any]


def operations() -> tuple[list[dict[str, str]], dict[str, Operation]]:
    """Return the document's list of tags, and the calls by method and path."""
    tags: list[dict[str, str]] = []
    found: dict[str, Operation] = {}
    for tag in TAGS:
        listed = json.loads((FOLDER / f"{tag}.json").read_text(encoding="utf-8"))
        tags.append({"name": tag, "description": listed["description"]})
        for call, one in listed["calls"].items():
            found[call] = Operation(
                one["id"], tag, one["summary"], one.get("request"), one["answers"]
            )
    return tags, found


def describe(document: dict[str, Any]) -> None:
    """Add ids, tags, summaries and examples to an OpenAPI document, in place.

    Raises:
        KeyError: A call has no entry in the files.
    """
    document["tags"], known = operations()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            call = f"{method.upper()} {path}"
            if call not in known:
                raise KeyError(f"{call}: give it an entry in service/http/static/openapi/TAG.json")
            _describe(operation, known[call])


def _describe(operation: dict[str, Any], known: Operation) -> None:
    operation |= {"operationId": known.id, "tags": [known.tag], "summary": known.summary}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] in PARAMETERS:
            parameter["example"] = PARAMETERS[parameter["name"]]
    if known.request is not None:
        _content(operation["requestBody"])["example"] = known.request
    for status, example in known.answers.items():
        _content(operation["responses"][status])["example"] = example


def _content(holder: dict[str, Any]) -> dict[str, Any]:
    """Return what a body or an answer is in its first media type."""
    first: dict[str, Any] = next(iter(holder["content"].values()))
    return first
