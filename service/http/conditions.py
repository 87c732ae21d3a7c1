"""Conditions of requests: for which version of a configuration a change is.

`If-Match` names versions, and `If-None-Match: *` says that there must be no such bandit.

A version is of the configuration, not of the bytes of an answer: a proxy that compresses answers
marks it as weak (`W/`), and it is taken back all the same.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Header

from service.serving.versions import ABSENT, ANY, ConfigurationVersion
from service.store.errors import InvalidRequest

_TAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*')
IfMatch = Annotated[
    str | None,
    Header(description="The version of the configuration that is changed: an earlier `ETag`."),
]
IfNoneMatch = Annotated[
    str | None, Header(description="`*`: create it, and change none that is there already.")
]
_DESCRIBED = {"description": "The version of the configuration.", "schema": {"type": "string"}}
TAGGED: dict[str, Any] = {"headers": {"ETag": _DESCRIBED}}  # of an answer, for the documentation


def wanted_versions(
    if_match: str | None, if_none_match: str | None = None
) -> tuple[ConfigurationVersion, ...] | None:
    """Return the versions that a request suits, by its headers; None: whatever is there.

    Raises:
        InvalidRequest: They cannot be read, or contradict each other.
    """
    if if_none_match is not None:
        if if_none_match.strip() != ANY:
            raise InvalidRequest("If-None-Match", "must be *")
        if if_match is not None:
            raise InvalidRequest("If-None-Match", "contradicts If-Match: send one of them")
        return (ABSENT,)
    if if_match is None:
        return None
    if if_match.strip() == ANY:
        return (ANY,)
    found = [_TAG.fullmatch(part) for part in if_match.split(",")]
    versions = [ConfigurationVersion(each[1]) for each in found if each is not None]
    if len(versions) < len(found) or ANY in versions or ABSENT in versions:
        raise InvalidRequest("If-Match", "must be * or versions in quotes, separated by commas")
    return tuple(versions)


def entity_tag(version: ConfigurationVersion) -> str:
    """Return the value of an `ETag`."""
    return f'"{version}"'
