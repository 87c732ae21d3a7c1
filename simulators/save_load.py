"""Check that a served model survives export and import: the imported model must score the same.

Runs in the simulator's main thread after a run. The probe bandit that it creates is deleted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bandexa_client import BanditClient, BanditError, Scores
from simulators.environments import Environment
from simulators.runner import upsert_actions, wire_array

_NUM_PROBES = 32
_MAX_ACTIONS = 256
_ATTEMPTS = 5


def probe_name(bandit: str) -> str:
    """Return the name of the bandit that imports the snapshot of a check."""
    return f"{bandit}-check"


def snapshot_difference(
    client: BanditClient,
    environment: Environment,
    *,
    bandit: str,
    spec: Mapping[str, object],
    save_path: Path | None = None,
) -> float:
    """Export a bandit's model, import it into a new bandit and compare their scores.

    Args:
        client: a client of the service.
        environment: gives the actions and the probe contexts.
        bandit: the bandit to check; the name `probe_name(bandit)` must be free.
        spec: the specification the bandit was created with.
        save_path: file for the exported snapshot; None: none is written.

    Returns:
        The greatest absolute difference of a mean over the probes; 0.0 if nothing was lost.

    Raises:
        BanditError: a call failed, or a training round ended during every attempt.
    """
    snapshot, expected = _settled_export(client, environment, bandit)
    if save_path is not None:
        save_path.write_bytes(snapshot)
    probe = probe_name(bandit)
    client.put_bandit(probe, spec)
    try:
        upsert_actions(client, environment, probe)
        client.import_snapshot(probe, snapshot)
        imported = _scores(client, environment, probe)
    finally:
        client.delete_bandit(probe)
    return max(
        abs(before.mean - after.mean)
        for row, other in zip(expected, imported, strict=True)
        for before, after in zip(row.scores, other.scores, strict=True)
    )


def _settled_export(
    client: BanditClient, environment: Environment, bandit: str
) -> tuple[bytes, list[Scores]]:
    """Export and score the same model, although a live trainer may swap it in between."""
    for _ in range(_ATTEMPTS):
        before = _scores(client, environment, bandit)
        snapshot = client.export_snapshot(bandit)
        after = _scores(client, environment, bandit)
        if len({(row.snapshot, row.position) for row in (*before, *after)}) == 1:
            return snapshot, after
    raise BanditError(f"a training round of {bandit} ended during each of {_ATTEMPTS} exports")


def _scores(client: BanditClient, environment: Environment, bandit: str) -> list[Scores]:
    candidates = _spread(environment.action_ids)
    return [
        client.score(bandit, wire_array(context), candidates)
        for context in environment.probes(_NUM_PROBES)
    ]


def _spread(ids: Sequence[str]) -> Sequence[str]:
    """Return all ids, or at most 256 evenly spread ones."""
    return ids[:: -(-len(ids) // _MAX_ACTIONS)]
