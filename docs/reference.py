"""Writes the reference pages from the code: docs/api.md, configuration.md, cli.md and the schema.

Run it as `python -m docs.reference` in a checkout. A test compares its output with the files, so
every call, setting and option that exists has an entry in these pages.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic_core import PydanticUndefined

from service.cli import app as commands
from service.http.app import create_app
from service.http.configured import bandit_schema
from service.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "*Generated from the code by `python -m docs.reference`.*"
WIDTH = 118
SCOPE = "x-required-scope"
# What a server answers besides the calls of its OpenAPI document.
PAGES = {
    "/": "The dashboard.",
    "/dashboard/static/{asset}": "A file of the dashboard.",
    "/docs": "The API's documentation, to try calls in a browser.",
    "/docs/{asset}": "A file of that documentation.",
    "/openapi.json": "The OpenAPI document.",
}
TYPES = {
    "integer": ("integer", "integers"),
    "number": ("number", "numbers"),
    "string": ("string", "strings"),
    "boolean": ("boolean", "booleans"),
    "object": ("object", "objects"),
    "null": ("null", "nulls"),
}
EXIT_STATUSES = {
    0: "The command is done.",
    1: "The server refused the call, a check found an error, or `serve` could not start.",
    2: "Arguments, settings or files are wrong.",
    3: "The server cannot be reached or is not ready. Try again.",
    4: "`serve` only: the store failed for good. Start the server again.",
}


def pages() -> dict[str, str]:
    """Return the text of every generated file by its name."""
    return {
        "api.md": "\n".join(_api()) + "\n",
        "configuration.md": "\n".join(_configuration()) + "\n",
        "cli.md": "\n".join(_cli()) + "\n",
        "bandit.schema.json": json.dumps(bandit_schema(), indent=2) + "\n",
    }


def _paragraph(text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False
    )


def _item(head: str, *parts: str) -> str:
    """Return a list item: its head, then the parts that are not empty."""
    body = f"- {head}: " + ", ".join(part for part in parts if part)
    return textwrap.fill(
        " ".join(body.split()), WIDTH, subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


# -- the API ----------------------------------------------------------------------------------


def _api() -> Iterator[str]:
    schema = create_app(Settings()).openapi()
    models: dict[str, Any] = schema["components"]["schemas"]
    yield "# API reference"
    yield "\nAfter this page you know every call, with its fields, its answers and its scope."
    yield "[http.md](http.md) explains them, and `/docs` of a running server lets you try them."
    yield f"\n{NOTE}\n"
    for path, method, operation in _operations(schema):
        title = f"{method} {path}"
        what = _first_paragraph(operation["description"])
        yield _item(f"[`{title}`](#{_anchor(title)})", what)
    yield "\nA server also answers these pages, which need no key:\n"
    for path, what in PAGES.items():
        yield _item(f"`GET {path}`", what)
    for path, method, operation in _operations(schema):
        yield from _operation(f"{method} {path}", operation)
    yield "\n# Models"
    for name in sorted(models):
        yield from _model(name, models[name])


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"\n## `{title}`\n"
    yield from _paragraphs(operation["description"])
    yield f"\nScope: {operation[SCOPE]}."
    parameters = operation.get("parameters", [])
    if parameters:
        yield "\nParameters:\n"
    for parameter in parameters:
        kind = parameter["schema"]
        default = f"default `{json.dumps(kind['default'])}`" if "default" in kind else ""
        described = f". {parameter['description']}" if "description" in parameter else ""
        where = f"in the {parameter['in']}"
        yield _item(f"`{parameter['name']}`", where, _type(kind), default) + described
    if "requestBody" in operation:
        yield f"\nBody: {_content(operation['requestBody'])}."
    good, bad = [], []
    for status, answer in operation["responses"].items():
        if int(status) < 400 or "application/json" in answer.get("content", {}):
            good.append(f"{status}: {_content(answer)}")
        else:
            bad.append(status)
    yield f"\nAnswers: {'; '.join(good)}."
    if bad:
        yield f"\nProblems: {', '.join(sorted(bad))}."


def _content(holder: dict[str, Any]) -> str:
    content = holder.get("content", {})
    if "application/json" in content and content["application/json"].get("schema"):
        return _type(content["application/json"]["schema"])
    return "bytes" if "application/octet-stream" in content else "no body or text"


def _model(name: str, model: dict[str, Any]) -> Iterator[str]:
    yield f"\n## {name}"
    if "description" in model:
        yield "\n" + _paragraph(_first_paragraph(model["description"]))
    properties = model.get("properties", {})
    if properties:
        yield ""
    for field, kind in properties.items():
        default = "required" if field in model.get("required", []) else ""
        if not default and "default" in kind:
            default = f"default `{json.dumps(kind['default'])}`"
        yield _item(f"`{field}`", _type(kind), default) + _described(kind)


def _described(kind: dict[str, Any]) -> str:
    text = kind.get("description", "")
    if not text or kind.get("title") == "Array":
        return ""
    return ".\n" + textwrap.indent(_paragraph(text), "  ")


def _type(kind: dict[str, Any], *, plural: bool = False) -> str:
    """Return a schema's type in a few words."""
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if kind.get("title") == "Array":
        return "array (nested lists or an envelope)"
    if "allOf" in kind and len(kind["allOf"]) == 1:
        return _type(kind["allOf"][0], plural=plural)
    for several in ("anyOf", "oneOf"):
        if several in kind:
            return " or ".join(_type(one) for one in kind[several])
    if "enum" in kind:
        return " or ".join(f"`{value}`" for value in kind["enum"])
    if "const" in kind:
        return f"`{kind['const']}`"
    if kind.get("type") == "array":
        if "prefixItems" in kind:
            return "[" + ", ".join(_type(one) for one in kind["prefixItems"]) + "]"
        return f"list of {_type(kind.get('items', {}), plural=True)}{_limits(kind)}"
    if isinstance(kind.get("additionalProperties"), dict):
        return f"object with values {_type(kind['additionalProperties'])}"
    if "pattern" in kind:
        return "ids" if plural else "id"
    named = TYPES.get(str(kind.get("type")), ("any value", "any values"))
    return named[plural] + _limits(kind)


def _limits(kind: dict[str, Any]) -> str:
    least = kind.get("minimum", kind.get("minItems"))
    most = kind.get("maximum", kind.get("maxItems"))
    above = kind.get("exclusiveMinimum")
    named = {"above": above, "at least": least, "at most": most}
    parts = [f"{words} {limit}" for words, limit in named.items() if limit is not None]
    return f" ({', '.join(parts)})" if parts else ""


def _anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    plain = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return plain.replace(" ", "-")


def _first_paragraph(text: str) -> str:
    return text.strip().partition("\n\n")[0].replace("\n", " ")


def _paragraphs(text: str) -> Iterator[str]:
    for number, part in enumerate(text.strip().split("\n\n")):
        yield ("\n" if number else "") + _paragraph(part)


# -- settings ---------------------------------------------------------------------------------


def _configuration() -> Iterator[str]:
    yield "# Configuration reference"
    yield "\nAfter this page you know every setting of a server and every key of a bandit."
    yield "[operations.md](operations.md) and [bandits.md](bandits.md) explain how to use them."
    yield f"\n{NOTE}"
    yield "\n## Settings of the server\n"
    yield "A setting comes from an argument of `bandexa serve`, from an environment variable, or"
    yield "from the TOML file of `--config`. The first of these wins. The variable is `BANDEXA_`"
    yield "and the name of the setting in capitals; a key `b` of a table `a` is `BANDEXA_A__B`."
    yield "An unknown setting is refused. What Kubernetes sets for a Service of that name, such as"
    yield "`BANDEXA_SERVICE_HOST` or `BANDEXA_PORT=tcp://10.0.0.1:8080`, is passed over.\n"
    properties = Settings.model_json_schema()["properties"]
    for name, field in Settings.model_fields.items():
        kind = {key: value for key, value in properties[name].items() if key != "title"}
        head = _item(f"`{name}`", _plain(kind), f"default {_default(field)}")
        yield head + ".\n" + textwrap.indent(_paragraph(field.description or ""), "  ")
    yield "\n## Keys of a bandit\n"
    yield "`[bandits.NAME]` in the TOML file, the file of `bandexa bandits create` and the body of"
    yield "`PUT /bandits/{name}` take these keys. [bandit.schema.json](bandit.schema.json) is their"
    yield "JSON schema.\n"
    schema = bandit_schema()
    yield from _keys(schema, schema["$defs"], "")


def _plain(kind: dict[str, Any]) -> str:
    if "$ref" in kind or "$ref" in kind.get("items", {}):
        return "tables"
    if "anyOf" in kind:
        return _plain(next(one for one in kind["anyOf"] if one.get("type") != "null"))
    if kind.get("type") == "array":
        return "tables"
    if kind.get("type") == "object":
        return "table"
    return "path" if kind.get("format") == "path" else _type(kind)


def _default(field: Any) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "empty"
    return "none" if value is None else f"`{json.dumps(value, default=str)}`"


def _keys(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, kind in schema["properties"].items():
        name = kind.get("$ref", "").rpartition("/")[2]
        if name:
            yield from _keys(definitions[name], definitions, f"{prefix}{key}.")
            continue
        default = "required" if key in schema.get("required", []) else "default empty"
        if "default" in kind:
            shown = "none" if kind["default"] is None else f"`{json.dumps(kind['default'])}`"
            default = f"default {shown}"
        listed = kind.get("items", {}).get("$ref", "").rpartition("/")[2]
        mapped = _mapped(kind)
        described = "ids, or tables of an action" if key == "actions" else ""
        if mapped:
            described = "table of tables, by id"
        yield _item(
            f"`{prefix}{key}`", "list of tables" if listed else described or _type(kind), default
        )
        if listed:
            yield from _keys(definitions[listed], definitions, f"{prefix}{key}.")
        if mapped:
            yield from _keys(definitions[mapped], definitions, f"{prefix}{key}.ID.")


def _mapped(kind: dict[str, Any]) -> str:
    """Return the model of an object's values, "" where they have none."""
    for one in (kind, *kind.get("anyOf", ())):
        values = one.get("additionalProperties")
        if isinstance(values, dict) and "$ref" in values:
            return str(values["$ref"]).rpartition("/")[2]
    return ""


# -- commands ---------------------------------------------------------------------------------


def _cli() -> Iterator[str]:
    yield "# Commands"
    yield "\nAfter this page you know every command of `bandexa`, with its options and exit"
    yield "statuses. `bandexa COMMAND --help` prints the same text, and `bandexa --version` the"
    yield "version."
    yield f"\n{NOTE}"
    yield "\nCommands that call a server use the address of `--url` or `BANDEXA_URL`, and send the"
    yield "key of `--api-key` or `BANDEXA_API_KEY`. An error is one line on standard error that"
    yield "says what helps.\n"
    yield "Exit statuses:\n"
    for status, meaning in EXIT_STATUSES.items():
        yield f"- {status}: {meaning}"
    yield from _command(typer.main.get_command(commands), "bandexa")


def _command(command: Any, name: str) -> Iterator[str]:
    if hasattr(command, "list_commands"):
        for child in sorted(command.list_commands(None)):
            yield from _command(command.get_command(None, child), f"{name} {child}")
        return
    yield f"\n## `{name}`\n"
    yield from _paragraphs(command.help or "")
    items = [item for parameter in command.params if (item := _parameter(parameter))]
    if items:
        yield ""
        yield from items


def _parameter(parameter: Any) -> str:
    if parameter.name == "help":
        return ""
    shown = ", ".join(f"`{opt}`" for opt in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        shown = f"`{(parameter.name or '').upper()}`"
    default = parameter.default
    if parameter.required:
        shown += " (required)"
    elif default not in (None, False, ()) and not callable(default):
        shown += f" (default `{default}`)"
    described = " ".join((getattr(parameter, "help", "") or "").split())
    environment = f" Also `{parameter.envvar}`." if isinstance(parameter.envvar, str) else ""
    return _item(shown, described + environment)


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text)


if __name__ == "__main__":
    main()
