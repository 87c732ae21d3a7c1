"""Refuses parameters in the query of a call that the call does not have.

`?dryrun=true` would otherwise change what somebody only wanted to look at.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant

from bandexa_core.wording import meant, one_of
from service.http.errors import InvalidBody

MAX_NAMED = 20  # parameters that one refusal names


def names_of(dependant: Dependant) -> tuple[str, ...]:
    """Return the parameters that a route takes in its query, with those of what it depends on."""
    return tuple(dict.fromkeys(_names(dependant)))


def _names(dependant: Dependant) -> Iterator[str]:
    for parameter in dependant.query_params:
        yield parameter.alias
    for inner in dependant.dependencies:
        yield from _names(inner)


def check_query(request: Request, names: tuple[str, ...]) -> None:
    """Check that a request's query has no other parameters than these.

    Raises:
        InvalidBody: It has; the message says which one was probably meant.
    """
    if not request.scope.get("query_string"):
        return
    unknown = [name for name in request.query_params if name not in names]
    if unknown:
        raise InvalidBody([(name[:64], _message(name, names)) for name in unknown[:MAX_NAMED]])


def _message(name: str, names: tuple[str, ...]) -> str:
    if hint := meant(name, names):
        return f"unknown parameter{hint}"
    return f"unknown parameter; the call takes {one_of(names) if names else 'none'}"
