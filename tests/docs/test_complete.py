"""Every call, setting, key and option has an entry in the documentation."""

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


def test_the_reference_is_what_the_code_says() -> None:
    """If this fails, run `python -m docs.reference` (or `make docs`) and read the difference."""
    for name, text in reference.pages().items():
        assert (DOCS / name).read_text() == text, name


def test_every_call_has_an_entry_and_a_heading() -> None:
    text = (DOCS / "api.md").read_text()
    paths = create_app(Settings()).openapi()["paths"]
    calls = [(path, method, o) for path, of in paths.items() for method, o in of.items()]
    assert len(calls) > 20
    for path, method, operation in calls:
        title = f"`{method.upper()} {path}`"
        assert operation["description"].strip(), title
        assert f"- [{title}](#" in text
        assert f"\n## {title}\n" in text


def test_the_four_hot_calls_are_in_the_reference() -> None:
    text = (DOCS / "api.md").read_text()
    for path in ("/select", "/reward", "/select/batch", "/reward/batch"):
        section = text.partition(f"\n## `POST {path}`\n")[2].partition("\n## ")[0]
        assert "Body: [" in section
        assert "Answers: 200: [" in section


@pytest.mark.parametrize("path", reference.PAGES)
def test_the_pages_beside_the_api_exist(path: str, http: Any) -> None:
    asset = "app.css" if "static" in path else "swagger-ui.css"
    assert http.get(path.replace("{asset}", asset)).status_code == 200


def test_every_setting_has_an_entry_that_says_something() -> None:
    text = (DOCS / "configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        assert re.search(rf"^- `{name}`: ", text, re.MULTILINE)
        assert field.description, name


def test_every_key_of_a_bandit_is_explained() -> None:
    """docs/bandits.md says what each key means; configuration.md has types and defaults."""
    explained = (DOCS / "bandits.md").read_text()
    listed = (DOCS / "configuration.md").read_text().partition("## Keys of a bandit")[2]
    keys = re.findall(r"^- `([a-z_.]+)`: ", listed, re.MULTILINE)
    assert len(keys) > 30
    for key in keys:
        assert re.search(rf"`(\w+\.)*{key.rpartition('.')[2]}`", explained), key


def _leaves(command: Any, name: str) -> list[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        return [(name, command)]
    return [
        leaf
        for key in command.list_commands(None)
        for leaf in _leaves(command.get_command(None, key), f"{name} {key}")
    ]


def test_every_option_of_every_command_is_explained() -> None:
    text = (DOCS / "cli.md").read_text()
    leaves = _leaves(typer.main.get_command(commands), "bandexa")
    assert len(leaves) > 20
    for name, command in leaves:
        section = text.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        assert command.help, name
        assert command.help.strip() in section, name
        for parameter in command.params:
            if parameter.name == "help":
                continue
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"
            shown = parameter.opts if parameter.param_type_name == "option" else []
            for option in shown or [(parameter.name or "").upper()]:
                assert f"`{option}`" in section, f"{name}: {option}"
