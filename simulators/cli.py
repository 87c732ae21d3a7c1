"""The workloads as commands, mounted by the service as `bandexa simulate`.

One process, one main thread; a private server is its child. Exit status: 0 when all went well, 2
for wrong usage, 1 when a run failed, was interrupted or lost something between save and load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console

from bandexa_client import BanditClient
from simulators.campaign import Campaign, run_campaign
from simulators.environments import (
    FASHION_FOLDER,
    Environment,
    ImagesUnavailableError,
    LabelledImages,
    MnistEnvironment,
    SyntheticEnvironment,
    TwoTowerEnvironment,
    WheelEnvironment,
    fashion_images,
    shipped_digits,
)
from simulators.options import RunOptions, finite, with_run_options
from simulators.overrides import NO_OVERRIDES, Overrides, parse_overrides
from simulators.policies import PLANS, takes
from simulators.private_server import PrivateServer
from simulators.progress import RunProgress
from simulators.report import Outcome, plot_regret, print_table, write_json

_PLOT_TYPES = (".png", ".pdf", ".svg")
_PLAIN_WIDTH = 120
_NOT_IN_CONFIG = ("json", "plot", "quiet", "api_key", "overrides")
_MNIST_ENCODER = "conv"

_Horizon = Annotated[int, typer.Option(min=1, help="Number of steps of a run.")]

app = typer.Typer(
    name="simulate",
    help="Replay a workload over HTTP and measure regret.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
@with_run_options
def synthetic(
    options: RunOptions,
    *,
    horizon: _Horizon = 2000,
    dim: Annotated[int, typer.Option(min=1, help="Features of a context, and of an action.")] = 16,
    actions: Annotated[int, typer.Option(min=1, help="Size of the fixed set of actions.")] = 50,
    env_noise_std: Annotated[
        float,
        typer.Option(min=0.0, callback=finite, help="Standard deviation of the noise on a reward."),
    ] = 0.1,
    interaction_scale: Annotated[
        float,
        typer.Option(
            min=0.0,
            callback=finite,
            help="Weight of interactions of context and action in the reward.",
        ),
    ] = 1.0,
    drift_at: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="After this many steps redraw all weights of the reward; actions and contexts "
            "stay as they are.",
        ),
    ] = None,
) -> None:
    """Nonlinear rewards with interactions: m(x, a) = tanh(w_x.x + w_a.a + w_xa.(x*a) + b)."""
    _refuse_contradictions("synthetic", options)
    if drift_at is not None and drift_at >= horizon:
        _refuse("--drift-at", f"must come before the end of the run, which has {horizon} steps")

    def make(seed: int) -> Environment:
        return SyntheticEnvironment(
            horizon=horizon,
            dim=dim,
            num_actions=actions,
            noise_std=env_noise_std,
            interaction_scale=interaction_scale,
            drift_at=drift_at,
            seed=seed,
        )

    config = {
        "horizon": horizon,
        "dim": dim,
        "actions": actions,
        "env_noise_std": env_noise_std,
        "interaction_scale": interaction_scale,
        "drift_at": drift_at,
    }
    _simulate("synthetic", make, options, config)


@app.command()
@with_run_options
def mnist(
    options: RunOptions,
    *,
    horizon: _Horizon = 5000,
    dataset: Annotated[
        Literal["digits", "fashion"],
        typer.Option(
            help="digits: handwritten digits. fashion: Fashion-MNIST, whose files must be there."
        ),
    ] = "digits",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="With --dataset fashion: folder of its idx files, compressed or not; the training "
            f"set is used. Left out: {FASHION_FOLDER}, which Debian's package "
            "dataset-fashion-mnist fills.",
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Use all 70,000 digits, downloaded once through torchvision, instead of the "
            "10,000 that come with the package.",
        ),
    ] = False,
    encoder: Annotated[
        str,
        typer.Option(
            help="Learned encoder: conv, resnet18 (34, 50, 101, 152), or a name that is registered "
            "at the service."
        ),
    ] = _MNIST_ENCODER,
    weights: Annotated[
        str | None,
        typer.Option(
            help="With a resnet: what it starts from: none (random), imagenet (downloaded once), "
            "or a name that is registered at the service; a private server takes names from the "
            "environment, BANDEXA_WEIGHTS__NAME=FILE."
        ),
    ] = None,
) -> None:
    """Recognise what an image shows: the label is the action, 1 for the right one, else 0."""
    _refuse_contradictions("mnist", options)
    if full and dataset != "digits":
        _refuse("--full", "is for --dataset digits")
    if data_dir is not None and dataset != "fashion":
        _refuse("--data-dir", "needs --dataset fashion")
    if weights is not None and encoder == _MNIST_ENCODER:
        _refuse("--weights", "needs --encoder resnet18 or another that starts from weights")
    try:
        images = _images(dataset, full=full, folder=data_dir)
    except ImagesUnavailableError as error:
        _fail(str(error))

    def make(seed: int) -> Environment:
        return MnistEnvironment(images, horizon=horizon, seed=seed)

    config = {
        "horizon": horizon,
        "dataset": dataset,
        "data_dir": None if data_dir is None else str(data_dir),
        "full": full,
        "encoder": encoder,
        "weights": weights,
    }
    given = {
        "encoder.name": None if encoder == _MNIST_ENCODER else encoder,
        "encoder.params.weights": weights,
    }
    _simulate("mnist", make, options, config, given)


def _images(dataset: str, *, full: bool, folder: Path | None) -> LabelledImages:
    if dataset == "fashion":
        return fashion_images() if folder is None else fashion_images(folder)
    if full:
        # Brings torch and torchvision along, which nothing else here needs.
        from simulators.environments.full_mnist import full_digits

        return full_digits()
    return shipped_digits()


@app.command()
@with_run_options
def two_tower(
    options: RunOptions,
    *,
    horizon: _Horizon = 3000,
    n_actions: Annotated[int, typer.Option(min=1, help="Size of the catalogue.")] = 10_000,
    candidate_size: Annotated[
        int, typer.Option(min=1, help="Candidates of a step, out of the catalogue.")
    ] = 1024,
    candidates: Annotated[
        Literal["random", "retrieve"],
        typer.Option(
            help="random: the same random candidates for every policy. retrieve: the service "
            "shortlists by sampled values, and regret is against the best of all actions."
        ),
    ] = "random",
) -> None:
    """Many actions whose reward only products of hidden features explain."""
    _refuse_contradictions("two-tower", options)
    if candidate_size > n_actions:
        _refuse("--candidate-size", f"must not exceed --n-actions, which is {n_actions}")

    def make(seed: int) -> Environment:
        return TwoTowerEnvironment(
            horizon=horizon,
            num_actions=n_actions,
            candidate_size=candidate_size,
            retrieve=candidates == "retrieve",
            seed=seed,
        )

    config = {
        "horizon": horizon,
        "n_actions": n_actions,
        "candidate_size": candidate_size,
        "candidates": candidates,
    }
    _simulate("two-tower", make, options, config)


@app.command()
@with_run_options
def wheel(
    options: RunOptions,
    *,
    horizon: _Horizon = 80_000,
    delta: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            callback=finite,
            help="Inner radius of the ring in which one action pays 50: the larger, the rarer.",
        ),
    ] = 0.5,
    env_noise_std: Annotated[
        float,
        typer.Option(min=0.0, callback=finite, help="Standard deviation of the noise on a reward."),
    ] = 0.01,
) -> None:
    """A safe action and a rare jackpot: contexts in the unit disc, five actions, 50 in its ring."""
    _refuse_contradictions("wheel", options)

    def make(seed: int) -> Environment:
        return WheelEnvironment(horizon=horizon, delta=delta, noise_std=env_noise_std, seed=seed)

    config = {"horizon": horizon, "delta": delta, "env_noise_std": env_noise_std}
    _simulate("wheel", make, options, config)


def _simulate(
    workload: str,
    make_environment: Callable[[int], Environment],
    options: RunOptions,
    config: Mapping[str, object],
    given: Overrides = NO_OVERRIDES,
) -> None:
    """Run a workload as the options say, and report whatever came of it.

    `given` are settings of the bandits that a workload has flags for; None: the flag was left out.
    """
    overrides = _overrides(options)
    flags = {key: value for key, value in given.items() if value is not None}
    if options.half_life is not None:
        flags["forgetting.half_life"] = options.half_life
    for key in flags.keys() & overrides.keys():
        _refuse("--set", f"{key} is set twice, by --set and by a flag of its own")
    campaign = Campaign(
        workload=workload,
        make_environment=make_environment,
        policies=_policies(workload, options),
        seeds=range(options.first_seed, options.first_seed + options.seeds),
        live=options.live,
        overrides=flags | overrides,
        delay=options.delay,
        url=options.url,
        api_key=options.api_key,
        server=lambda: PrivateServer(device=options.device, replay_dir=options.buffer_dir),
        replace=options.replace,
        check_save_load=options.check_save_load,
        save_path=options.save_path,
    )
    outcome = Outcome(workload, {**_shared_config(options), "set": overrides, **config})
    progress = RunProgress(_console(stderr=True), quiet=options.quiet)
    run_campaign(campaign, outcome, progress)
    _report(outcome, options)


def _report(outcome: Outcome, options: RunOptions) -> None:
    """Write table, JSON and plot, then end with status 1 if something is wrong."""
    print_table(outcome, _console(stderr=False))
    if options.json is not None:
        write_json(outcome, options.json)
    if options.plot is not None and outcome.policies():
        plot_regret(outcome, options.plot)
    if options.url is not None and outcome.runs and not options.quiet:
        typer.echo(f"the bandits of these runs stay on {options.url}", err=True)
    if outcome.error is not None:
        kept = f"\npartial results are in {options.json}" if options.json is not None else ""
        _fail(outcome.error + kept)
    if any(check.max_difference != 0.0 for check in outcome.checks):
        _fail("a model changed between export and import")


def _policies(workload: str, options: RunOptions) -> list[str]:
    if options.policies.strip() == "all":
        return list(PLANS[workload])
    return [name.strip() for name in options.policies.split(",")]


def _refuse_contradictions(workload: str, options: RunOptions) -> None:
    """Refuse before anything runs what could only fail or be ignored later."""
    names, known = _policies(workload, options), PLANS[workload]
    for name in names:
        if name not in known:
            _refuse("--policies", f"{name!r} is none of {', '.join(known)}")
    if len(set(names)) < len(names):
        _refuse("--policies", "names a policy twice")
    if options.url is not None:
        for flag, value in (("--device", options.device), ("--buffer-dir", options.buffer_dir)):
            if value is not None:
                _refuse(flag, "is for a private server and cannot be used with --url")
        try:
            BanditClient(options.url).close()
        except ValueError as error:
            _refuse("--url", str(error))
    elif options.replace:
        _refuse("--replace", "needs --url: a private server starts empty")
    for key in _overrides(options):
        if not any(takes(known[name], key) for name in names):
            _refuse("--set", f"{key} has no effect on {', '.join(names)}")
    if options.save_path is not None and not options.check_save_load:
        _refuse("--save-path", "needs --check-save-load")
    if options.plot is not None and options.plot.suffix.lower() not in _PLOT_TYPES:
        _refuse("--plot", f"must end in one of {', '.join(_PLOT_TYPES)}")
    outputs = {"--json": options.json, "--plot": options.plot, "--save-path": options.save_path}
    for flag, path in outputs.items():
        if path is not None and not path.absolute().parent.is_dir():
            _refuse(flag, f"is in a folder that does not exist: {path.absolute().parent}")


def _overrides(options: RunOptions) -> dict[str, object]:
    try:
        return parse_overrides(options.overrides or ())
    except ValueError as error:
        _refuse("--set", str(error))


def _shared_config(options: RunOptions) -> dict[str, object]:
    """Return the shared options as they stand in the JSON file, without where it is written."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
        if name not in _NOT_IN_CONFIG
    }


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_PLAIN_WIDTH)


def _refuse(flag: str, reason: str) -> NoReturn:
    raise typer.BadParameter(reason, param_hint=flag)


def _fail(message: str) -> NoReturn:
    typer.echo(f"simulate: {message}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
