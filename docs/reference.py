"""Writes the reference pages from the code: docs/api.md, configuration.md, cli.md and the schema.

`python -m docs.reference` in a checkout; a test compares what it would write with what is there,
so nothing can be served, set or called that these pages do not have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic_core import PydanticUndefined

from service.cli import app as commands
from service.http.app import create_app
from service.http.auth import DECLARED
from service.http.configured import bandit_schema
from service.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "*Made from the code by `python -m docs.reference`.*"


def pages() -> dict[str, str]:
    """Return every page by the name of its file."""
    return {
        "api.md": "\n".join(_api()) + "\n",
        "configuration.md": "\n".join(_configuration()) + "\n",
        "cli.md": "\n".join(_cli()) + "\n",
        "bandit.schema.json": json.dumps(bandit_schema(), indent=2) + "\n",
    }


# -- the API ----------------------------------------------------------------------------------


def _api() -> Iterator[str]:
    app = create_app(Settings())
    schema = app.openapi()
    models: dict[str, Any] = schema["components"]["schemas"]
    yield "# API reference"
    yield f"\n{NOTE} [http.md](http.md) explains; `/docs` of a running server lets you try."
    yield "\n| call | scope | |\n|---|---|---|"
    for path, method, operation in _operations(schema):
        what = _first_line(operation["description"])
        link = _anchor(f"{method} {path}")
        yield f"| [`{method} {path}`](#{link}) | {operation['x-required-scope']} | {what} |"
    for route in app.state.routes:
        if not route.include_in_schema:
            what = _first_line(route.description)
            for method in sorted(route.methods):
                scope = (route.openapi_extra or {})[DECLARED]
                yield f"| `{method} {route.path}` | {scope} | {what} |"
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
    yield f"\n## `{title}`\n\n{operation['description']}"
    yield f"\nScope: {operation['x-required-scope']}."
    parameters = operation.get("parameters", [])
    if parameters:
        yield "\n| parameter | in | type | default | |\n|---|---|---|---|---|"
    for parameter in parameters:
        kind = parameter["schema"]
        default = json.dumps(kind["default"]) if "default" in kind else ""
        told = parameter.get("description", "")
        yield f"| `{parameter['name']}` | {parameter['in']} | {_type(kind)} | {default} | {told} |"
    if "requestBody" in operation:
        yield f"\nBody: {_content(operation['requestBody'])}."
    good, bad = [], []
    for status, answer in operation["responses"].items():
        if int(status) < 400 or "application/json" in answer.get("content", {}):
            good.append(f"{status}: {_content(answer)}")
        else:
            bad.append(status)
    yield f"\nAnswers {'; '.join(good)}."
    if bad:
        yield f"\nProblems: {', '.join(sorted(bad))}."


def _content(holder: dict[str, Any]) -> str:
    content = holder.get("content", {})
    if "application/json" in content and content["application/json"]["schema"]:
        return _type(content["application/json"]["schema"])
    return "bytes" if "application/octet-stream" in content else "no body or text"


def _model(name: str, model: dict[str, Any]) -> Iterator[str]:
    yield f"\n## {name}\n"
    if "description" in model:
        yield _first_line(model["description"])
    properties = model.get("properties", {})
    if properties:
        yield "\n| field | type | default | |\n|---|---|---|---|"
    for field, kind in properties.items():
        default = "required" if field in model.get("required", []) else ""
        if not default and "default" in kind:
            default = f"`{json.dumps(kind['default'])}`"
        yield f"| `{field}` | {_type(kind)} | {default} | {kind.get('description', '')} |"


def _type(kind: dict[str, Any]) -> str:
    """Return a schema's type in a few words."""
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if kind.get("title") == "Array":
        return "array (nested lists or an envelope)"
    if "anyOf" in kind:
        return " or ".join(_type(one) for one in kind["anyOf"])
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if "const" in kind:
        return f"`{kind['const']}`"
    if kind.get("type") == "array":
        if "prefixItems" in kind:
            return "[" + ", ".join(_type(one) for one in kind["prefixItems"]) + "]"
        return f"list of {_type(kind.get('items', {}))}{_limits(kind)}"
    if isinstance(kind.get("additionalProperties"), dict):
        return f"map to {_type(kind['additionalProperties'])}"
    if "pattern" in kind:
        return "id"
    return str(kind.get("type", "anything")) + _limits(kind)


def _limits(kind: dict[str, Any]) -> str:
    least = kind.get("minimum", kind.get("minItems"))
    most = kind.get("maximum", kind.get("maxItems"))
    above = kind.get("exclusiveMinimum")
    named = {"above": above, "at least": least, "at most": most}
    parts = [f"{words} {limit}" for words, limit in named.items() if limit is not None]
    return f" ({', '.join(parts)})" if parts else ""


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _first_line(text: str) -> str:
    return text.strip().partition("\n\n")[0].replace("\n", " ")


# -- settings ---------------------------------------------------------------------------------


def _configuration() -> Iterator[str]:
    yield "# Configuration reference"
    yield f"\n{NOTE} [operations.md](operations.md) tells how to use it."
    yield "\nA setting comes from an argument of `bandexa serve`, from the environment as"
    yield "`BANDEXA_` and its name, or from the TOML file of `--config`; the first of these wins."
    yield "A key `b` of a table `a` is `BANDEXA_A__B` there. Whatever is unknown is refused."
    yield "\n| setting | type | default | |\n|---|---|---|---|"
    properties = Settings.model_json_schema()["properties"]
    for name, field in Settings.model_fields.items():
        kind = {key: value for key, value in properties[name].items() if key != "title"}
        yield f"| `{name}` | {_plain(kind)} | {_default(field)} | {field.description} |"
    yield "\n`[bandits.NAME]` takes what [bandit.schema.json](bandit.schema.json) describes:"
    yield "\n| key | type | default |\n|---|---|---|"
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
        default = "required" if key in schema.get("required", []) else "empty"
        if "default" in kind:
            default = "none" if kind["default"] is None else f"`{json.dumps(kind['default'])}`"
        shown = "actions: ids, or tables" if key == "actions" else _type(kind)
        yield f"| `{prefix}{key}` | {shown} | {default} |"


# -- commands ---------------------------------------------------------------------------------


def _cli() -> Iterator[str]:
    yield "# Commands"
    yield f"\n{NOTE} `bandexa COMMAND --help` says the same, `bandexa --version` the version."
    yield "\nCommands that call a server find it by `--url` or `BANDEXA_URL`, and send `--api-key`"
    yield "or `BANDEXA_API_KEY`. An error is one line on standard error that says what helps."
    yield "\n| exit status | |\n|---|---|"
    yield "| 0 | done |"
    yield "| 1 | the server refused it, a check found something wrong, or `serve` could not start |"
    yield "| 2 | wrong arguments, settings or files |"
    yield "| 3 | the server cannot be reached, or is not ready: try again |"
    yield "| 4 | `serve` alone: the store failed for good; start it again |"
    yield from _command(typer.main.get_command(commands), "bandexa")


def _command(command: Any, name: str) -> Iterator[str]:
    if not hasattr(command, "list_commands"):
        yield f"\n## `{name}`\n\n{(command.help or '').strip()}"
        rows = [row for parameter in command.params if (row := _parameter(parameter))]
        if rows:
            yield "\n| argument or option | default | |\n|---|---|---|"
            yield from rows
        return
    for child in sorted(command.list_commands(None)):
        yield from _command(command.get_command(None, child), f"{name} {child}")


def _parameter(parameter: Any) -> str:
    if parameter.name == "help":
        return ""
    shown = ", ".join(f"`{opt}`" for opt in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        shown = f"`{(parameter.name or '').upper()}`"
    default = "required" if parameter.required else parameter.default
    if default in (None, False, ()) or callable(default):
        default = ""
    told = " ".join((getattr(parameter, "help", "") or "").split())
    env = f" Also `{parameter.envvar}`." if isinstance(parameter.envvar, str) else ""
    return f"| {shown} | {default} | {told}{env} |"


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text)


if __name__ == "__main__":
    main()
