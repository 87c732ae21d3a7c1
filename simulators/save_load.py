"""Check that a served model survives export and import: the imported model must score the same.

Runs in the simulator's main thread after a run. The probe bandit that it creates is deleted again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bandexa_client import BanditClient, BanditError, Scores

NUM_PROBES = 32
_MAX_ACTIONS = 256
_ATTEMPTS = 5


class Probed(NamedTuple):
    """What a check needs of an environment.

    Attributes:
        put_actions: puts the actions into the bandit of a name.
        contexts: the contexts to score, as they are sent.
        action_ids: the actions to score.
        train_first: whether actions came one after the other. A round comes first then, so that
            both models have computed their parts of all actions together, and round alike.
    """

    put_actions: Callable[[str], None]
    contexts: Sequence[Any]
    action_ids: Sequence[str]
    train_first: bool = False


def probe_name(bandit: str) -> str:
    """Return the name of the bandit that imports the snapshot of a check."""
    return f"{bandit}-check"


def snapshot_difference(
    client: BanditClient,
    probed: Probed,
    *,
    bandit: str,
    spec: Mapping[str, object],
    save_path: Path | None = None,
) -> float:
    """Export a bandit's model, import it into a new bandit and compare their scores.

    Args:
        client: a client of the service.
        probed: the actions and the contexts to score.
        bandit: the bandit to check; the name `probe_name(bandit)` must be free.
        spec: the specification the bandit was created with.
        save_path: file for the exported snapshot; None: none is written.

    Returns:
        The greatest absolute difference of a mean over the probes; 0.0 if nothing was lost.

    Raises:
        BanditError: a call failed, or a training round ended during every attempt.
    """
    snapshot, expected = _settled_export(client, probed, bandit)
    if save_path is not None:
        save_path.write_bytes(snapshot)
    probe = probe_name(bandit)
    client.put_bandit(probe, spec)
    try:
        probed.put_actions(probe)
        client.import_snapshot(probe, snapshot)
        imported = _scores(client, probed, probe)
    finally:
        client.delete_bandit(probe)
    return max(
        abs(before.mean - after.mean)
        for row, other in zip(expected, imported, strict=True)
        for before, after in zip(row.scores, other.scores, strict=True)
    )


def _settled_export(
    client: BanditClient, probed: Probed, bandit: str
) -> tuple[bytes, list[Scores]]:
    """Export and score the same model, although a live trainer may swap it in between."""
    if probed.train_first:
        client.train(bandit, wait=True)
    for _ in range(_ATTEMPTS):
        before = _scores(client, probed, bandit)
        snapshot = client.export_snapshot(bandit)
        after = _scores(client, probed, bandit)
        if len({(row.snapshot, row.position) for row in (*before, *after)}) == 1:
            return snapshot, after
    raise BanditError(f"a training round of {bandit} ended during each of {_ATTEMPTS} exports")


def _scores(client: BanditClient, probed: Probed, bandit: str) -> list[Scores]:
    candidates = _spread(probed.action_ids)
    return [client.score(bandit, context, candidates) for context in probed.contexts]


def _spread(ids: Sequence[str]) -> Sequence[str]:
    """Return all ids, or at most 256 evenly spread ones."""
    return ids[:: -(-len(ids) // _MAX_ACTIONS)]
