"""Reads the settings: arguments over environment (BANDEXA_...) over TOML over defaults.

An unknown key of any source is refused, so that a typing error never passes in silence.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from service.settings.server import Settings

PREFIX = "BANDEXA_"
NESTING = "__"
CLIENT_KEY = "BANDEXA_API_KEY"  # no setting: commands that call a server send it
CLIENT_URL = "BANDEXA_URL"  # no setting either: the address of that server
# What Kubernetes sets in every container for a Service that is named bandexa, or bandexa-anything.
_KUBERNETES = re.compile(
    r"BANDEXA_(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_KUBERNETES_PORT = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
_TABLES = (
    "keys",
    "encoders",
    "weights",
    "bandits",
    "allowed_hosts",
    "allowed_origins",
    "trusted_proxies",
)  # a variable of this name is JSON
_DEEP = ("bandits", "personalizer", "backup")  # a variable of one of its keys may be JSON, too


class SettingsError(ValueError):
    """A setting is unknown or out of range; the message names it."""


def load_settings(config: Path | None, **arguments: Any) -> Settings:
    """Read the settings; arguments that are None count as not given.

    Raises:
        SettingsError: A file cannot be read, or a setting is unknown or out of range.
    """
    toml: dict[str, Any] = {}
    if config is not None:
        try:
            toml = tomllib.loads(config.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise SettingsError(f"{config}: {error}") from error
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return Settings.model_validate(_merged(toml, _environment()) | given)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _environment() -> dict[str, Any]:
    """Return the settings of the environment: `BANDEXA_A__B` is the key `b` of the table `a`.

    Raises:
        SettingsError: A variable names no setting.
    """
    found: dict[str, Any] = {}
    for name, text in sorted(os.environ.items()):  # a table comes before its keys
        if not name.upper().startswith(PREFIX) or name.upper() in (CLIENT_KEY, CLIENT_URL):
            continue
        if _KUBERNETES.fullmatch(name):
            continue
        if name.endswith("_PORT") and _KUBERNETES_PORT.fullmatch(text):
            continue
        field, *keys = name[len(PREFIX) :].lower().split(NESTING)
        if field not in Settings.model_fields:
            raise SettingsError(f"environment: {name} is not a setting")
        value: Any = _decoded(text) if field in (_TABLES if not keys else _DEEP) else text
        for key in reversed(keys):
            value = {key: value}
        found = _merged(found, {field: value})
    return found


def _decoded(text: str) -> Any:
    """Return the JSON value that a text is, or the text where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Return two tables as one; where both have a value, that of `high`."""
    merged = low | high
    for key in low.keys() & high.keys():
        if isinstance(low[key], dict) and isinstance(high[key], dict):
            merged[key] = _merged(low[key], high[key])
    return merged
