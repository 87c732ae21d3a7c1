"""`bandexa apply` and `replay`: bandits that a file describes, on a running server."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.admin import actions_of, read_file
from service.cli.options import (
    REFUSED,
    USAGE,
    echo_json,
    fail,
)
from service.cli.remote import Server, named, with_server

if TYPE_CHECKING:
    from bandexa_client import BanditClient, Plan


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(apply)
    app.command()(replay)


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """What a file says of a bandit, and how that differs from what the server has.

    Attributes:
        name: The bandit.
        spec: Its configuration, as in the file.
        plan: What the server would do with it.
        actions: The actions that are new or different, as in the file.
    """

    name: str
    spec: dict[str, Any]
    plan: Plan
    actions: list[dict[str, Any]]

    @property
    def is_none(self) -> bool:
        """Whether there is nothing to do."""
        return self.plan.status == "unchanged" and not self.actions

    def shown(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        plan = dataclasses.asdict(self.plan)
        changes = plan["changes"] if plan["status"] == "changed" else []
        status = "changed" if plan["status"] == "unchanged" and self.actions else plan["status"]
        return {
            "bandit": self.name, "status": status, "changes": changes,
            "relearned": plan["relearned"], "rows": plan["rows"],
            "estimated_s": plan["estimated_s"], "actions": [each["id"] for each in self.actions],
            "warnings": [] if self.is_none else list(plan["warnings"] or ()),
        }  # fmt: skip

    def lines(self) -> Iterable[str]:
        """Yield it for people."""
        new = self.plan.status == "created"
        if new:
            yield f"{self.name}: is new"
        for change in () if new else self.plan.changes:
            for key, old, new_value in _parts(change.key, change.old, change.new):
                yield f"{self.name}: {key}: {_shown(old)} -> {_shown(new_value)}"
        for warning in self.plan.warnings or () if not self.is_none else ():
            yield f"{self.name}: warning: {warning}"
        if self.plan.relearned:
            took = self.plan.estimated_s
            about = "" if took is None else f", in about {took:.1f} s by earlier rounds"
            yield f"{self.name}: a model is learned anew from {self.plan.rows} rows{about}"
        if self.actions:
            ids = ", ".join(each["id"] for each in self.actions[:5])
            more = f" and {len(self.actions) - 5} more" if len(self.actions) > 5 else ""
            yield f"{self.name}: actions new or different: {ids}{more}"


NOTHING = object()  # in place of a value of a key that there is not


def _parts(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs inside of two values of a key, by its path."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        yield key, old, new
        return
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name, NOTHING), new.get(name, NOTHING)
        if before != after:
            yield from _parts(f"{key}.{name}", before, after)


def _shown(value: Any) -> str:
    return "(none)" if value is NOTHING else json.dumps(value)


@with_server
def apply(
    server: Server,
    file: Annotated[Path, typer.Argument(help="TOML, or JSON: a table `bandits` by name.")],
    diff: Annotated[
        bool,
        typer.Option("--diff", help="Change nothing; show the differences. 0: none, 1: some."),
    ] = False,
    wait: Annotated[
        bool, typer.Option(help="Wait until a model that is learned anew is served.")
    ] = True,
) -> None:
    """Create and change bandits, with their actions, until they are as a file says.

    Each has a table `bandits.NAME`, as in the server's TOML. What is not named stays as it is.

    All are compared before one is changed: where one cannot be as the file says, none is changed.

    With --diff nothing is changed. Exit status 0: nothing differs. 1: something does.

    2: the file says what a bandit cannot be.
    """
    tables = _tables(file)
    found = []
    with server.connected() as client:
        for name, table in tables.items():
            with named(f"bandits.{name}", USAGE if diff else REFUSED):
                found.append(_difference(client, name, dict(table)))
        for difference in found:
            if not server.quiet and not server.as_json:
                for line in difference.lines():
                    typer.echo(line)
            if not diff and not difference.is_none:
                with named(f"bandits.{difference.name}"):
                    _make(client, difference, wait=wait)
    differs = [each for each in found if not each.is_none]
    if server.as_json:
        echo_json([each.shown() for each in found])
    elif not server.quiet:
        what = "differ from the file" if diff else "were created or changed"
        typer.echo(f"{len(differs)} of {len(found)} bandits {what}")
    if diff and differs:
        raise typer.Exit(REFUSED)


@with_server
def replay(
    server: Server,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The bandit to learn from.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The name of the new bandit.")],
    config: Annotated[
        Path,
        typer.Option("--config", help="Its whole configuration: JSON, or TOML (.toml)."),
    ],
) -> None:
    """Build a new bandit from the log of another one, under another configuration.

    It gets the actions of FROM and learns its rows: contexts, actions and values. FROM goes on.
    """
    spec = read_file(config)
    if not isinstance(spec, dict):
        fail(f"{config} holds no table", "`bandexa schema` prints what it may hold", USAGE)
    if actions_of(spec):
        fail(f"{config}: the actions are those of {source}; leave them out", status=USAGE)
    if "context" not in spec:
        remedy = f"`bandexa bandits show {source} --json` has that of {source}, under `spec`"
        fail(
            f"{config}: the whole configuration is needed, and `context` is missing", remedy, USAGE
        )
    with server.connected() as client:
        done = client.replay_bandit(source, target, spec)
    if server.as_json:
        shown = dataclasses.asdict(done)
        del shown["bandit"]["created"]
        echo_json(shown)
    elif not server.quiet:
        gone = f", {done.sampled} of them sampled from those that left" if done.sampled else ""
        typer.echo(f"{target}: learned {done.rows} rows of {source}{gone}")


def _tables(file: Path) -> dict[str, dict[str, Any]]:
    content = read_file(file)
    tables = content.get("bandits") if isinstance(content, dict) else None
    if not isinstance(tables, dict) or not tables:
        fail(f"{file} has no table `bandits`", "[bandits.NAME] for each of them", USAGE)
    for name, table in tables.items():
        if not isinstance(table, dict):
            fail(f"{file}: bandits.{name} is no table", status=USAGE)
    return tables


def _difference(client: BanditClient, name: str, table: dict[str, Any]) -> Difference:
    wanted = [{"id": each} if isinstance(each, str) else each for each in actions_of(table) or ()]
    if not all(isinstance(each, dict) and isinstance(each.get("id"), str) for each in wanted):
        fail(f"bandits.{name}.actions: each is an id, or has one", status=USAGE)
    plan = client.plan_bandit(name, table)
    known: dict[str, Any] = {}
    if plan.status != "created" and wanted:
        known = {each.id: each for each in client.list_actions(name)}
    return Difference(
        name, table, plan, [each for each in wanted if not _is_same(each, known.get(each["id"]))]
    )


def _is_same(wanted: dict[str, Any], known: Any) -> bool:
    if known is None or known.enabled != wanted.get("enabled", True):
        return False
    features = wanted.get("features")
    if features is None or isinstance(known.features, Mapping):
        return features is None or features == known.features
    return _as_float32(features) == _as_float32(known.features)


def _as_float32(values: Any) -> bytes | None:
    """Return numbers as the server has them; None where they are none."""
    try:
        return struct.pack(f"{len(values)}f", *values)
    except (struct.error, TypeError, OverflowError):
        return None


def _make(client: BanditClient, difference: Difference, *, wait: bool) -> None:
    """Create or change a bandit; its actions come first where a model is learned anew."""
    is_new = difference.plan.status == "created"
    if is_new:
        client.put_bandit(difference.name, difference.spec)
    if difference.actions:
        client.put_actions(difference.name, difference.actions)
    if not is_new and difference.plan.status == "changed":
        client.put_bandit(difference.name, difference.spec, wait=wait)
