"""The commands of `bandexa simulate`, one per workload.

Declarations alone, without numpy, httpx or rich: `bandexa` imports them to list its commands. Exit
status: 0 when everything succeeded, 2 for wrong usage, 1 when a run failed or was interrupted, or
when a model changed between export and import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from simulators.options import RunOptions, finite, refuse, with_run_options

if TYPE_CHECKING:
    from simulators.environments import Environment, LabelledImages
    from simulators.environments.shop import ShopStream

_MNIST_ENCODER = "conv"

_Horizon = Annotated[int, typer.Option(min=1, help="Number of steps of a run.")]
_NoiseStd = Annotated[
    float,
    typer.Option(min=0.0, callback=finite, help="Standard deviation of the noise on a reward."),
]
_InteractionScale = Annotated[
    float,
    typer.Option(
        min=0.0,
        callback=finite,
        help="Weight of interactions of context and action in the reward.",
    ),
]
_DriftAt = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="After this many steps redraw all weights of the reward; actions and contexts "
        "do not change.",
    ),
]
_Dataset = Annotated[
    Literal["digits", "fashion"],
    typer.Option(help="digits: handwritten digits. fashion: Fashion-MNIST from its files."),
]
_DataDir = Annotated[
    Path | None,
    typer.Option(
        file_okay=False,
        help="With --dataset fashion: folder of its idx files, compressed or not; the training "
        "set is used. Left out: /usr/share/datasets/fashion-mnist, which Debian's package "
        "dataset-fashion-mnist fills.",
    ),
]
_Full = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Use all 70,000 digits, downloaded once through torchvision, instead of the "
        "10,000 in the package.",
    ),
]
_Encoder = Annotated[
    str,
    typer.Option(
        help="Learned encoder: conv, resnet18 (34, 50, 101, 152), or a name that is registered "
        "with the service."
    ),
]
_Weights = Annotated[
    str | None,
    typer.Option(
        help="Initial weights of a resnet: none (random), imagenet (downloaded once), or a "
        "name that is registered with the service; a private server takes names from the "
        "environment, BANDEXA_WEIGHTS__NAME=FILE."
    ),
]
_Candidates = Annotated[
    Literal["random", "retrieve"],
    typer.Option(
        help="random: the same random candidates for every policy. retrieve: the service "
        "retrieves candidates by sampled values; regret is against the best of all actions."
    ),
]
_Delta = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        callback=finite,
        help="Inner radius of the ring where one action pays 50; a larger one makes it rarer.",
    ),
]

_World = Annotated[
    Literal["shop", "shop-2", "shop-3"],
    typer.Option(help="shop: set by hand. shop-2, shop-3: drawn from a prior over shops."),
]
_Money = Annotated[
    bool,
    typer.Option("--money", help="A click pays the purchase, up to 350; otherwise it pays 1."),
]

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
    env_noise_std: _NoiseStd = 0.1,
    interaction_scale: _InteractionScale = 1.0,
    drift_at: _DriftAt = None,
) -> None:
    """Nonlinear rewards with interactions: m(x, a) = tanh(w_x.x + w_a.a + w_xa.(x*a) + b)."""
    if drift_at is not None and drift_at >= horizon:
        refuse("--drift-at", f"must come before the end of the run, which has {horizon} steps")

    def load() -> Callable[[int], Environment]:
        from simulators.environments import SyntheticEnvironment

        return lambda seed: SyntheticEnvironment(
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
    _simulate("synthetic", load, options, config)


@app.command()
@with_run_options
def mnist(
    options: RunOptions,
    *,
    horizon: _Horizon = 5000,
    dataset: _Dataset = "digits",
    data_dir: _DataDir = None,
    full: _Full = False,
    encoder: _Encoder = _MNIST_ENCODER,
    weights: _Weights = None,
) -> None:
    """Images with ten labels as actions: the right label pays 1, every other one 0."""
    if full and dataset != "digits":
        refuse("--full", "is for --dataset digits")
    if data_dir is not None and dataset != "fashion":
        refuse("--data-dir", "needs --dataset fashion")
    if weights is not None and encoder == _MNIST_ENCODER:
        refuse("--weights", "needs --encoder resnet18 or another that starts from weights")

    def load() -> Callable[[int], Environment]:
        from simulators.environments import MnistEnvironment

        images = _images(dataset, full=full, folder=data_dir)
        return lambda seed: MnistEnvironment(images, horizon=horizon, seed=seed)

    config = {
        "horizon": horizon,
        "dataset": dataset,
        "data_dir": None if data_dir is None else str(data_dir),
        "full": full,
        "encoder": encoder,
        "weights": weights,
    }
    settings: dict[str, object] = {}
    if encoder != _MNIST_ENCODER:
        settings["encoder.name"] = encoder
    if weights is not None:
        settings["encoder.params.weights"] = weights
    _simulate("mnist", load, options, config, settings)


def _images(dataset: str, *, full: bool, folder: Path | None) -> LabelledImages:
    from simulators.environments import fashion_images, shipped_digits

    if dataset == "fashion":
        return fashion_images() if folder is None else fashion_images(folder)
    if full:
        # This needs torch and torchvision, which no other workload does.
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
        int, typer.Option(min=1, help="Number of candidates of a step.")
    ] = 1024,
    candidates: _Candidates = "random",
) -> None:
    """Many actions and a reward that only products of hidden features explain."""
    if candidate_size > n_actions:
        refuse("--candidate-size", f"must not exceed --n-actions, which is {n_actions}")

    def load() -> Callable[[int], Environment]:
        from simulators.environments import TwoTowerEnvironment

        return lambda seed: TwoTowerEnvironment(
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
    _simulate("two-tower", load, options, config)


@app.command()
@with_run_options
def wheel(
    options: RunOptions,
    *,
    horizon: _Horizon = 80_000,
    delta: _Delta = 0.5,
    env_noise_std: _NoiseStd = 0.01,
) -> None:
    """Contexts in the unit disc; a safe action, and one per quadrant that pays 50 in a ring."""

    def load() -> Callable[[int], Environment]:
        from simulators.environments import WheelEnvironment

        return lambda seed: WheelEnvironment(
            horizon=horizon, delta=delta, noise_std=env_noise_std, seed=seed
        )

    config = {"horizon": horizon, "delta": delta, "env_noise_std": env_noise_std}
    _simulate("wheel", load, options, config)


@app.command()
@with_run_options
def shop(
    options: RunOptions,
    *,
    horizon: _Horizon = 4000,
    world: _World = "shop",
    money: _Money = False,
) -> None:
    """A web shop: JSON objects as contexts and offers, which come and go, and late clicks."""

    def load() -> Callable[[int], ShopStream]:
        from simulators.environments.shop import shop_stream, shop_world

        found = shop_world(world)
        return lambda seed: shop_stream(found, seed=seed, horizon=horizon, money=money)

    config = {"horizon": horizon, "world": world, "money": money}
    _simulate(world, load, options, config)


def _simulate(
    workload: str,
    load: Callable[[], Callable[[int], Environment | ShopStream]],
    options: RunOptions,
    config: Mapping[str, object],
    settings: Mapping[str, object] | None = None,
) -> None:
    from simulators.command import simulate

    simulate(workload, load, options, config, settings or {})


if __name__ == "__main__":
    app()
