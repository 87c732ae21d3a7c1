"""All runs of one `simulate` command: every policy with every seed, on one server.

Runs in the simulator's main thread. When a failed call, a dead server or a signal ends it early,
the outcome records the reason beside all results so far, and a private server is stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict

from bandexa_client import NO_RETRY, BanditClient, BanditError, NotFound, ServiceUnavailable
from simulators.environments import Environment
from simulators.environments.shop import ShopStream
from simulators.overrides import Overrides
from simulators.policies import PLANS, bandit_spec, shop_spec
from simulators.private_server import (
    Interrupted,
    PrivateServer,
    ServerFailedError,
    interruptible,
)
from simulators.progress import RunProgress
from simulators.report import Outcome, SnapshotCheck
from simulators.runner import Run, play, upsert_actions, wire_array
from simulators.save_load import NUM_PROBES, Probed, probe_name, snapshot_difference
from simulators.shop_runner import play_shop, put_offers


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """The runs of one command, and the service they use.

    Attributes:
        workload: the name of the workload.
        make_environment: builds the environment, or the shop, of a seed.
        policies: labels of `simulators.policies.PLANS`.
        seeds: every policy runs with each of them.
        live: the service trains in the background; otherwise the simulator requests each round.
        overrides: settings of the bandits.
        delay: number of rewards that are collected before they are sent together.
        url: address of a running service; None starts a private one with `server`.
        api_key: sent to the service at `url`.
        server: makes the private server.
        replace: delete bandits with the names of these runs first.
        check_save_load: export the model of each policy's first seed, import it and compare.
        save_path: file for the exported snapshots; the policy becomes part of the name when there
            are several.
    """

    workload: str
    make_environment: Callable[[int], Environment | ShopStream]
    policies: Sequence[str]
    seeds: Sequence[int]
    live: bool = False
    overrides: Overrides = field(default_factory=dict)
    delay: int = 1
    url: str | None = None
    api_key: str | None = None
    server: Callable[[], PrivateServer] = PrivateServer
    replace: bool = False
    check_save_load: bool = False
    save_path: Path | None = None


class _How(TypedDict):
    bandit: str
    live: bool
    delay: int
    on_step: Callable[[], None]


class CampaignError(Exception):
    """The campaign cannot run as requested; the message says why."""


def run_campaign(campaign: Campaign, outcome: Outcome, progress: RunProgress) -> None:
    """Run everything and fill `outcome`; a failure is recorded in `outcome.error`."""
    try:
        with interruptible(), _connected(campaign) as client, progress:
            if campaign.url is not None:
                _claim_names(campaign, client)
            for seed in campaign.seeds:
                _run_seed(campaign, seed, client, outcome, progress)
    except (BanditError, ServerFailedError, CampaignError, Interrupted, OSError) as error:
        outcome.error = str(error)


def bandit_name(workload: str, policy: str, seed: int) -> str:
    """Return the name of a run's bandit; decision ids begin with it, so runs repeat exactly."""
    return f"{workload}-{policy}-{seed}"


@contextmanager
def _connected(campaign: Campaign) -> Iterator[BanditClient]:
    """Yield a client of the server; if a private server dies, the error ends with its log."""
    if campaign.url is not None:
        with BanditClient(campaign.url, retry=NO_RETRY, api_key=campaign.api_key) as client:
            if not client.ready():
                raise CampaignError(f"the service at {campaign.url} is not ready")
            yield client
        return
    with (
        campaign.server() as server,
        BanditClient(server.url, retry=NO_RETRY, trust_env=False) as client,
    ):
        try:
            yield client
        except ServiceUnavailable as error:
            failure = server.failure()
            if failure is None:
                raise
            raise ServerFailedError(failure) from error


def _claim_names(campaign: Campaign, client: BanditClient) -> None:
    """Check that the names of all runs are free; with `replace`, delete existing bandits."""
    names = [
        bandit_name(campaign.workload, policy, seed)
        for seed in campaign.seeds
        for policy in campaign.policies
    ]
    if campaign.check_save_load:
        names += [probe_name(name) for name in names]
    taken = [name for name in names if _exists(client, name)]
    if taken and not campaign.replace:
        raise CampaignError(
            f"the service at {campaign.url} already has {', '.join(taken)}: "
            "--replace deletes bandits of these names first"
        )
    for name in taken:
        client.delete_bandit(name)


def _exists(client: BanditClient, bandit: str) -> bool:
    try:
        client.get_bandit(bandit)
    except NotFound:
        return False
    return True


def _run_seed(
    campaign: Campaign,
    seed: int,
    client: BanditClient,
    outcome: Outcome,
    progress: RunProgress,
) -> None:
    environment = campaign.make_environment(seed)
    runs = [Run(policy, seed, environment.horizon) for policy in campaign.policies]
    progress.begin_seed(runs)
    for run in runs:
        outcome.runs.append(run)
        _run_policy(campaign, environment, run, client, progress)
        progress.finish(run)
        if campaign.check_save_load and seed == campaign.seeds[0]:
            _check(campaign, environment, run, client, outcome)


def _run_policy(
    campaign: Campaign,
    environment: Environment | ShopStream,
    run: Run,
    client: BanditClient,
    progress: RunProgress,
) -> None:
    bandit = bandit_name(campaign.workload, run.policy, run.seed)
    client.put_bandit(bandit, _spec(campaign, environment, run))
    how: _How = {
        "bandit": bandit,
        "live": campaign.live,
        "delay": campaign.delay,
        "on_step": lambda: progress.advance(run),
    }
    if isinstance(environment, ShopStream):
        play_shop(client, environment, run, **how)
    else:
        upsert_actions(client, environment, bandit)
        play(client, environment, run, **how)


def _check(
    campaign: Campaign,
    environment: Environment | ShopStream,
    run: Run,
    client: BanditClient,
    outcome: Outcome,
) -> None:
    """Check that the model of a run survives export and import; uniform has no model."""
    if PLANS[campaign.workload][run.policy].encoder is None:
        return
    save_path = campaign.save_path
    if save_path is not None and len(campaign.policies) > 1:
        save_path = save_path.with_name(f"{save_path.stem}-{run.policy}{save_path.suffix}")
    difference = snapshot_difference(
        client,
        _probed(client, environment),
        bandit=bandit_name(campaign.workload, run.policy, run.seed),
        spec=_spec(campaign, environment, run),
        save_path=save_path,
    )
    outcome.checks.append(SnapshotCheck(run.policy, run.seed, difference))


def _probed(client: BanditClient, environment: Environment | ShopStream) -> Probed:
    """Return what a check of export and import needs of an environment."""
    if isinstance(environment, ShopStream):
        return Probed(
            partial(put_offers, client, environment),
            environment.contexts[:NUM_PROBES],
            [offer.id for offer in environment.on_offer(environment.horizon - 1)],
            train_first=True,
        )
    return Probed(
        partial(upsert_actions, client, environment),
        [wire_array(context) for context in environment.probes(NUM_PROBES)],
        environment.action_ids,
    )


def _spec(campaign: Campaign, environment: Environment | ShopStream, run: Run) -> dict[str, object]:
    plan = PLANS[campaign.workload][run.policy]
    if isinstance(environment, ShopStream):
        return shop_spec(plan, seed=run.seed, live=campaign.live, overrides=campaign.overrides)
    return bandit_spec(
        plan, environment, seed=run.seed, live=campaign.live, overrides=campaign.overrides
    )
