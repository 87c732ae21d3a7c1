"""The common body of the `simulate` commands: check the options, play the runs, report the results.

Runs in the simulator's main thread; a private server is its child process. `simulators.cli` imports
this module when a command runs, because it needs numpy, httpx and rich.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from bandexa_client import BanditClient
from simulators.campaign import Campaign, run_campaign
from simulators.environments import Environment, ImagesUnavailableError
from simulators.environments.shop import ShopStream
from simulators.options import RunOptions, refuse
from simulators.overrides import Overrides, parse_overrides
from simulators.policies import PLANS, takes
from simulators.private_server import PrivateServer
from simulators.progress import RunProgress
from simulators.report import Outcome, plot_regret, print_table, write_json

_PLOT_TYPES = (".png", ".pdf", ".svg")
_PLAIN_WIDTH = 120
_NOT_IN_CONFIG = ("json", "plot", "quiet", "api_key", "overrides")


def simulate(
    workload: str,
    load: Callable[[], Callable[[int], Environment | ShopStream]],
    options: RunOptions,
    config: Mapping[str, object],
    settings: Overrides,
) -> None:
    """Play a workload and report the results, partial ones too.

    Args:
        workload: the name of the workload.
        load: reads the data of the environments and returns a function that builds the environment
            of a seed.
        options: the options that all commands share.
        config: the workload's own options, for the JSON file.
        settings: settings of the bandits that the workload's own flags give.

    Raises:
        typer.BadParameter: options contradict each other.
        typer.Exit: with status 1, when a run failed or a model changed between export and import.
    """
    policies, overrides = _policies(workload, options), _overrides(options)
    _refuse_contradictions(workload, options, policies, overrides)
    if options.half_life is not None:
        settings = {**settings, "forgetting.half_life": options.half_life}
    for key in settings.keys() & overrides.keys():
        refuse("--set", f"{key} is set twice, by --set and by a flag of its own")
    try:
        make_environment = load()
    except ImagesUnavailableError as error:
        _fail(str(error))
    campaign = Campaign(
        workload=workload,
        make_environment=make_environment,
        policies=policies,
        seeds=range(options.first_seed, options.first_seed + options.seeds),
        live=options.live,
        overrides={**settings, **overrides},
        delay=options.delay,
        url=options.url,
        api_key=options.api_key,
        server=lambda: PrivateServer(device=options.device, replay_dir=options.buffer_dir),
        replace=options.replace,
        check_save_load=options.check_save_load,
        save_path=options.save_path,
    )
    outcome = Outcome(workload, {**_shared_config(options), "set": overrides, **config})
    run_campaign(campaign, outcome, RunProgress(_console(stderr=True), quiet=options.quiet))
    _report(outcome, options)


def _report(outcome: Outcome, options: RunOptions) -> None:
    """Write table, JSON file and plot, then end with status 1 if anything failed."""
    print_table(outcome, _console(stderr=False))
    if options.json is not None:
        write_json(outcome, options.json)
    if options.plot is not None and outcome.policies():
        plot_regret(outcome, options.plot)
    if options.url is not None and outcome.runs and not options.quiet:
        typer.echo(f"the bandits of these runs stay on {options.url}", err=True)
    if outcome.error is not None:
        partial = f"\npartial results are in {options.json}" if options.json is not None else ""
        _fail(outcome.error + partial)
    if any(check.max_difference != 0.0 for check in outcome.checks):
        _fail("a model changed between export and import")


def _policies(workload: str, options: RunOptions) -> list[str]:
    if options.policies.strip() == "all":
        return list(PLANS[workload])
    names = [name.strip() for name in options.policies.split(",")]
    if options.policies == RunOptions().policies:  # of those by default, the ones that there are
        return [name for name in names if name in PLANS[workload]]
    return names


def _refuse_contradictions(
    workload: str, options: RunOptions, names: Sequence[str], overrides: Overrides
) -> None:
    """Refuse options that would fail or have no effect later, before anything runs."""
    known = PLANS[workload]
    for name in names:
        if name not in known:
            refuse("--policies", f"{name!r} is none of {', '.join(known)}")
    if len(set(names)) < len(names):
        refuse("--policies", "names a policy twice")
    if options.url is not None:
        for flag, value in (("--device", options.device), ("--buffer-dir", options.buffer_dir)):
            if value is not None:
                refuse(flag, "is for a private server and cannot be used with --url")
        try:
            BanditClient(options.url).close()
        except ValueError as error:
            refuse("--url", str(error))
    elif options.replace:
        refuse("--replace", "needs --url: a private server starts empty")
    for key in overrides:
        if not any(takes(known[name], key) for name in names):
            refuse("--set", f"{key} has no effect on {', '.join(names)}")
    if options.save_path is not None and not options.check_save_load:
        refuse("--save-path", "needs --check-save-load")
    if options.plot is not None and options.plot.suffix.lower() not in _PLOT_TYPES:
        refuse("--plot", f"must end in one of {', '.join(_PLOT_TYPES)}")
    outputs = {"--json": options.json, "--plot": options.plot, "--save-path": options.save_path}
    for flag, path in outputs.items():
        if path is not None and not path.absolute().parent.is_dir():
            refuse(flag, f"is in a folder that does not exist: {path.absolute().parent}")


def _overrides(options: RunOptions) -> dict[str, object]:
    try:
        return parse_overrides(options.overrides or ())
    except ValueError as error:
        refuse("--set", str(error))


def _shared_config(options: RunOptions) -> dict[str, object]:
    """Return the shared options for the JSON file, without those that name output files."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
        if name not in _NOT_IN_CONFIG
    }


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_PLAIN_WIDTH)


def _fail(message: str) -> NoReturn:
    typer.echo(f"simulate: {message}", err=True)
    raise typer.Exit(1)
