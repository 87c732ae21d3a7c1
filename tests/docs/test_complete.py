"""Nothing can be called, set, measured or typed that the documentation does not have."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer.main

from docs import reference
from service.cli import app as commands
from service.http.app import create_app
from service.settings import Settings
from tests.docs.pages import ROOT

DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", reference.pages())
def test_the_reference_is_what_the_code_says(name: str) -> None:
    """Otherwise: `python -m docs.reference` (or `make docs`) and look at the difference."""
    assert (DOCS / name).read_text() == reference.pages()[name]


def test_every_route_has_a_heading_or_a_row() -> None:
    text = (DOCS / "api.md").read_text()
    routes = create_app(Settings()).state.routes
    assert len(routes) > 20
    for route in routes:
        assert route.description.strip(), route.path
        for method in route.methods:
            assert f"`{method} {route.path}`" in text


def test_every_setting_has_a_row_that_says_something() -> None:
    text = (DOCS / "configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        assert re.search(rf"^\| `{name}` \|", text, re.MULTILINE)
        assert field.description, name


def test_every_key_of_a_bandit_is_explained() -> None:
    """docs/http.md says what each key means; configuration.md has types and defaults."""
    explained = (DOCS / "http.md").read_text()
    for key in re.findall(r"^\| `([a-z_.]+)` \|", _bandit_keys(), re.MULTILINE):
        assert re.search(rf"\b{key.rpartition('.')[2]}\b", explained), key


def _bandit_keys() -> str:
    return (DOCS / "configuration.md").read_text().partition("`[bandits.NAME]`")[2]


def _leaves(command: Any, name: str) -> list[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        return [(name, command)]
    return [
        leaf
        for key in command.list_commands(None)
        for leaf in _leaves(command.get_command(None, key), f"{name} {key}")
    ]


COMMANDS = _leaves(typer.main.get_command(commands), "bandexa")


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_option_of_every_command_is_explained(name: str, command: Any) -> None:
    section = (DOCS / "cli.md").read_text().partition(f"## `{name}`\n")[2].partition("\n## ")[0]
    assert command.help
    assert command.help.strip() in section
    for parameter in command.params:
        if parameter.name == "help":
            continue
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"
        shown = parameter.opts if parameter.param_type_name == "option" else []
        for option in shown or [(parameter.name or "").upper()]:
            assert f"`{option}`" in section
