"""`bandexa bandits`, `actions`, `train` and `recover`: administration of a running server."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.features import feature_lines
from service.cli.options import (
    USAGE,
    BanditName,
    columns,
    echo_json,
    fail,
)
from service.cli.remote import Server, with_server, with_server_without_json
from service.observe.verdicts import is_better

if TYPE_CHECKING:
    from bandexa_client import BanditState, Catalogue, Estimate

bandits_app = typer.Typer(help="Bandits of a running server.", no_args_is_help=True)
actions_app = typer.Typer(help="The actions of a bandit.", no_args_is_help=True)
OFFERED = "offered"  # the actions to put, beside what describes their named features
SHORT = 60  # characters of an action's named features in a list
File = Annotated[Path, typer.Option("--file", help="JSON or TOML (.toml); - is standard input.")]


def register(app: typer.Typer) -> None:
    """Add `train` and `recover` to `app`."""
    app.command()(train)
    app.command()(recover)


# -- bandits ----------------------------------------------------------------------------------


@bandits_app.command("list")
@with_server
def list_bandits(
    server: Server,
) -> None:
    """List the bandits; with --quiet only their names."""
    with server.connected() as client:
        found = client.list_bandits()
    if server.as_json:
        echo_json([_state(bandit) for bandit in found])
    elif server.quiet:
        typer.echo("".join(f"{bandit.name}\n" for bandit in found), nl=False)
    else:
        head = ("bandit", "policy", "actions", "learned", "snapshot", "position", "findings")
        typer.echo(columns(head, [_summary(bandit) for bandit in found]))


def _state(bandit: BanditState) -> dict[str, Any]:
    """Return a bandit's state as the server answers it."""
    state = dataclasses.asdict(bandit)
    del state["created"]
    return state


def _summary(bandit: BanditState) -> list[object]:
    findings = ", ".join(finding.name for finding in bandit.learning.findings)
    return [
        bandit.name, bandit.spec["policy"], bandit.num_actions, bandit.num_learned,
        bandit.snapshot, bandit.position, findings,
    ]  # fmt: skip


@bandits_app.command("show")
@with_server
def show_bandit(
    server: Server,
    bandit: BanditName,
) -> None:
    """Show a bandit's configuration and state, and the findings that prevent it from learning."""
    with server.connected() as client:
        state = _state(client.get_bandit(bandit))
    if server.as_json:
        echo_json(state)
        return
    learning = state.pop("learning")
    findings = learning.pop("findings")
    learning.pop("feature_rates", None)  # the table of fields has them
    features, rebuild = state.pop("features", None), state.get("rebuild")
    if rebuild is not None:  # of the wanted configuration, what differs from that above
        wanted = _flat(rebuild.pop("spec"), "rebuild.spec.")
        known = dict(_flat(state["spec"], "rebuild.spec."))
    differs = [] if rebuild is None else [each for each in wanted if known.get(each[0]) != each[1]]
    found = [*_flat({**state, **learning}), *differs]
    if not server.quiet:
        typer.echo(columns(("key", "value"), [[key, json.dumps(value)] for key, value in found]))
        for line in feature_lines(features or {}):
            typer.echo(line)
    for finding in findings:
        typer.echo(f"{finding['severity']} {finding['name']}: {finding['message']}")
        typer.echo(f"  {finding['remedy']}")


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            out += _flat(item, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", item))
    return out


@bandits_app.command("mode")
@with_server
def set_mode(
    server: Server,
    bandit: BanditName,
    mode: Annotated[str, typer.Argument(help="learn, frozen or control_only.")] = "learn",
    serve: Annotated[
        str | None, typer.Option(help="One action to serve wherever it is offered.")
    ] = None,
) -> None:
    """Change who decides, and whether it learns: bandit, control alone, one action."""
    with server.connected() as client:
        state = client.set_mode(bandit, mode, serve=serve)
    if server.as_json:
        echo_json(_state(state))
    elif not server.quiet:
        who = f"serves {serve}" if serve is not None else f"mode {mode}"
        typer.echo(f"{bandit}: {who}, from position {state.position} on")


@bandits_app.command("values")
@with_server
def show_values(
    server: Server,
    bandit: BanditName,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many actions.")] = 20,
) -> None:
    """Show what arms and actions earned, with intervals that hold at any time."""
    with server.connected() as client:
        found = client.values(bandit, limit=limit)
    if server.as_json:
        echo_json(dataclasses.asdict(found))
        return
    if server.quiet:
        return
    if found.arms:
        head = ("arm", "share", "values", "reward", "interval", "lift", "interval")
        rows = [
            [arm.name, f"{arm.share:.3g}", *_estimate(arm.reward), *_estimate(arm.lift)[1:]]
            for arm in found.arms
        ]
        typer.echo(columns(head, rows) + "\n")
        for arm in found.arms:
            if arm.lift is not None and arm.share:
                typer.echo(is_better(arm.name, *dataclasses.astuple(arm.lift)) + "\n")
        parts = [
            [of, arm.name, *_estimate(part.reward), *_estimate(part.lift)[1:]]
            for arm in found.arms
            for of, part in {**(arm.metrics or {}), **(arm.segments or {})}.items()
        ]
        if parts:
            head = ("metric or segment", "arm", "values", "mean", "interval", "lift", "interval")
            typer.echo(columns(head, sorted(parts)) + "\n")
    lines = [[action.id, *_estimate(action.reward)] for action in found.actions]
    typer.echo(columns(("action", "values", "reward", "interval"), lines))
    measured = [
        [action.id, name, *_estimate(part)]
        for action in found.actions
        for name, part in sorted((action.metrics or {}).items())
    ]
    if measured:
        typer.echo("\n" + columns(("action", "metric", "values", "mean", "interval"), measured))


@bandits_app.command("audit")
@with_server
def show_audit(
    server: Server,
    bandit: BanditName,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries.")] = 20,
) -> None:
    """Show who changed a bandit, when, and what that changed; newest first."""
    with server.connected() as client:
        found = client.audit(bandit, limit=limit)
    if server.as_json:
        echo_json([dataclasses.asdict(entry) for entry in found.entries])
    elif not server.quiet:
        for entry in found.entries:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.time))
            typer.echo(f"{at}Z  {entry.by}  {entry.what}")
            for each in entry.changes:
                typer.echo(f"    {each.key}: {json.dumps(each.old)} -> {json.dumps(each.new)}")


def _estimate(found: Estimate | None) -> list[str]:
    """Return number, mean and interval, as far as they are known."""
    if found is None:
        return ["", "", ""]
    mean = "" if found.mean is None else f"{found.mean:.4g}"
    known = found.low is not None and found.high is not None
    return [str(found.num), mean, f"{found.low:.4g} to {found.high:.4g}" if known else ""]


@bandits_app.command("create")
@with_server
def create_bandit(
    server: Server,
    bandit: BanditName,
    file: File,
) -> None:
    """Create a bandit from a file, or change those keys of it that can change.

    The file may also hold `actions` to put: a list, or `offered` in their table.

    `bandexa schema` prints its JSON schema.
    """
    spec = read_file(file)
    if not isinstance(spec, dict):
        fail(f"{file} holds no table", "`bandexa schema` prints what it may hold", USAGE)
    actions = actions_of(spec)
    with server.connected() as client:
        created = client.put_bandit(bandit, spec)
        state = _state(created)
        if actions:
            state |= dataclasses.asdict(client.put_actions(bandit, actions))
    if server.as_json:
        echo_json(state)
    elif not server.quiet:
        done = "created" if created.created else "up to date"
        if created.rebuild is not None and created.rebuild.state != "done":
            done = f"a model is learned anew from {created.rebuild.rows} rows"
        typer.echo(f"{bandit}: {done}, {state['num_actions']} actions")
        for warning in created.warnings or ():
            typer.echo(f"warning: {warning}", err=True)


def actions_of(spec: dict[str, Any]) -> Any:
    """Take the actions to put out of the table of a bandit; what describes them stays."""
    given = spec.get("actions")
    if not isinstance(given, dict):
        return spec.pop("actions", None)
    spec["actions"] = {key: value for key, value in given.items() if key != OFFERED}
    return given.get(OFFERED)


@bandits_app.command("delete")
@with_server_without_json
def delete_bandit(
    server: Server,
    bandit: BanditName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a bandit with its decisions, rewards and snapshots. This cannot be undone."""
    if not yes:
        if not sys.stdin.isatty():
            fail("deleting cannot be undone", "confirm it with --yes", USAGE)
        typer.confirm(f"Delete {bandit} with all it has learned?", abort=True)
    with server.connected() as client:
        client.delete_bandit(bandit)
    if not server.quiet:
        typer.echo(f"{bandit}: deleted")


def read_spec(file: Path) -> dict[str, Any]:
    """Return the configuration in a file, as for `bandits create`, without actions to put."""
    spec = read_file(file)
    if not isinstance(spec, dict):
        fail(f"{file} holds no table", "`bandexa schema` prints what it may hold", USAGE)
    actions_of(spec)
    return spec


def read_file(file: Path) -> Any:
    """Return the content of a file."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        return tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {error}", status=USAGE)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        fail(f"{file}: {error}", "JSON, or TOML in a file that ends in .toml", USAGE)


# -- actions ----------------------------------------------------------------------------------


@actions_app.command("list")
@with_server
def list_actions(
    server: Server,
    bandit: BanditName,
) -> None:
    """List a bandit's actions, retired ones included; with --quiet only the offered ids."""
    with server.connected() as client:
        actions = client.list_actions(bandit)
    if server.as_json:
        echo_json([dataclasses.asdict(action) for action in actions])
    elif server.quiet:
        typer.echo("".join(f"{a.id}\n" for a in actions if a.enabled), nl=False)
    else:
        rows = [
            (a.index, a.id, "offered" if a.enabled else "retired", _short(a.features))
            for a in actions
        ]
        typer.echo(columns(("slot", "action", "state", "features"), rows))


def _short(features: Sequence[float] | Mapping[str, object]) -> str:
    if isinstance(features, Mapping):
        text = json.dumps(features, ensure_ascii=False)
        return text if len(text) <= SHORT else f"{text[:SHORT]} ..."
    shown = " ".join(f"{value:g}" for value in features[:8])
    return f"{shown} ..." if len(features) > 8 else shown


@actions_app.command("put")
@with_server
def put_actions(
    server: Server,
    bandit: BanditName,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of actions.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="JSON: ids, or {id, features, enabled} each; - is standard input."
        ),
    ] = None,
) -> None:
    """Add actions, or overwrite those of the same ids; others stay as they are."""
    if bool(ids) == (file is not None):
        fail("give either ids or --file", status=USAGE)
    listed: Any = ids if file is None else read_file(file)
    if isinstance(listed, dict):
        listed = listed.get("actions")
    if not isinstance(listed, list) or not listed:
        fail("no actions are given", "give a JSON list of ids, or of {id, features}", USAGE)
    with server.connected() as client:
        answer = client.put_actions(bandit, listed)
    server.show(answer, _offers(bandit, answer))


@actions_app.command("retire")
@with_server
def retire_actions(
    server: Server,
    bandit: BanditName,
    ids: Annotated[list[str], typer.Argument(help="Ids of actions.")],
) -> None:
    """Stop offering actions. What was learned about them stays, and `put` offers them again."""
    with server.connected() as client:
        for action_id in ids:
            answer = client.retire_action(bandit, action_id)
    server.show(answer, _offers(bandit, answer))


def _offers(bandit: str, answer: Catalogue) -> str:
    return f"{bandit}: {answer.num_actions} actions are offered"


# -- training ---------------------------------------------------------------------------------


@with_server
def train(
    server: Server,
    bandit: BanditName,
    wait: Annotated[bool, typer.Option(help="Wait until the new snapshot is served.")] = True,
) -> None:
    """Train a bandit now. Without this command it trains when a round is due."""
    if wait and not server.quiet:
        typer.echo(f"{bandit}: training", err=True)
    with server.connected() as client:
        answer = client.train(bandit, wait=wait)
    if server.as_json:
        echo_json(dataclasses.asdict(answer))
    elif not server.quiet:
        metrics = "".join(f", {name} {value:.4g}" for name, value in answer.metrics.items())
        what = f"serves snapshot {answer.snapshot}" if wait else "a round is queued"
        typer.echo(f"{bandit}: {what}{metrics}")


@with_server
def recover(
    server: Server,
    bandit: BanditName,
) -> None:
    """Recover a failed bandit now. Without this command it is tried again by itself."""
    with server.connected() as client:
        answer = client.recover(bandit)
    if server.as_json:
        echo_json(dataclasses.asdict(answer))
    elif not server.quiet:
        typer.echo(
            f"{bandit}: serves snapshot {answer.snapshot} with the log up to {answer.position}"
        )
