"""Whether a snapshot from elsewhere may be served by a bandit, and its form for that bandit.

Whoever serves a model trusts it with all further rows, and so does the next start. So an import is
factorised again and compared with its own sums. Where it differs by more than rounding, what its
sums give is served instead; sums that are not those of rows are refused here, before anything names
them. A posterior of sums stays one after any later row and any later step of forgetting. Values of
actions go to the actions with the same ids, whatever their slots are here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.log.catalogue import Catalogue
from bandexa_core.model import ServingModel
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior
from bandexa_core.posterior.agreement import differences_by_slot
from bandexa_core.posterior.tensors import take_prefix
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.training.heads import renumbered_heads
from service.store.errors import Conflict, InvalidRequest

ROUNDING = 1e-9  # of a posterior against its own sums
LARGEST = 1e50  # of a posterior's numbers: beyond, its arithmetic rounds all else away
RIDGES = 1e16  # the most that products of features weigh more than the prior, which is rounded away
_POSTERIOR = "posterior/"
_OPTIONS = ("prior_mean", "refresh_every")


class Adopted(NamedTuple):
    """A snapshot from elsewhere.

    Attributes:
        manifest: Its manifest; `meta["actions"]` has the ids of its actions in slot order.
        model: The tensors of the policy.
        training: The state of the encoder's training.
    """

    manifest: Manifest
    model: dict[str, NDArray[Any]]
    training: dict[str, NDArray[Any]]


def fit(adopted: Adopted, model: ServingModel, *, is_own: bool) -> Adopted:
    """Load a snapshot into a new model of a bandit; returns it in the form for this bandit.

    Args:
        adopted: The snapshot.
        model: A new model of the bandit, with its actions.
        is_own: Whether it is one of the bandit's own snapshots, whose files have hashes. Its
            posterior is served as it is.

    Raises:
        InvalidRequest: It makes no sense, or does not fit.
        Conflict: It is of another shape, or of actions that the bandit does not have.
    """
    manifest = adopted.manifest
    actions = manifest.meta.get("actions")
    if not 0 <= manifest.num_rows < 2**53 or not _are_ids(actions):
        raise InvalidRequest("body", "the export's num_rows or actions make no sense")
    if manifest.spec_hash != model.spec.model_hash():
        raise Conflict("the snapshot comes from a bandit of another shape (policy, encoder, ...)")
    if not all(np.isfinite(t).all() for t in adopted.model.values() if t.dtype.kind == "f"):
        raise InvalidRequest("body", "the snapshot holds numbers that are not finite")
    policy = model.policy
    if isinstance(policy, LinearHead) and not policy.encoder.uses_action:
        adopted = _renumbered(adopted, model.catalogue)
    try:
        policy.load_tensors(adopted.model)
        policy.check_training(adopted.training, len(model.catalogue))
    except (ValueError, KeyError) as error:
        raise InvalidRequest("body", f"the snapshot does not fit: {error}") from error
    if isinstance(policy, LinearHead) and not is_own:
        _refactorise(policy)
    return adopted


def _are_ids(actions: Any) -> bool:
    if not isinstance(actions, list) or not all(isinstance(name, str) for name in actions):
        return False
    return len(set(actions)) == len(actions)


def _renumbered(adopted: Adopted, catalogue: Catalogue) -> Adopted:
    """Give the values of each action the slot that the action has here.

    Raises:
        InvalidRequest: Values belong to no action.
        Conflict: The snapshot has learned of an action that is not here.
    """
    manifest, model, training = adopted
    ids = manifest.meta["actions"]
    slots = {
        old: int(catalogue.slots[name]) for old, name in enumerate(ids) if name in catalogue.slots
    }
    try:
        posterior = DisjointPosterior.renumbered(take_prefix(model, _POSTERIOR), slots)
    except ValueError as error:  # int() refuses thousands of digits
        raise InvalidRequest("body", "the snapshot has an action number that is none") from error
    except KeyError as error:
        old = error.args[0]
        if old >= len(ids):
            raise InvalidRequest("body", f"the snapshot has no action number {old}") from error
        raise Conflict(
            f"the snapshot has learned of the action {ids[old]!r}, which this bandit does not have:"
            " add it first"
        ) from error
    rest = {name: tensor for name, tensor in model.items() if not name.startswith(_POSTERIOR)}
    model = rest | {f"{_POSTERIOR}{name}": tensor for name, tensor in posterior.items()}
    if [slots.get(old) for old in range(len(ids))] != list(range(len(ids))):
        training = renumbered_heads(training, slots, len(catalogue))
    return Adopted(manifest, model, training)


def _refactorise(policy: LinearHead) -> None:
    """Replace the posterior by the one that its sums give, unless it is that one to rounding.

    Raises:
        InvalidRequest: They are no sums of rows.
    """
    loaded = policy.posterior
    try:
        with np.errstate(all="ignore"):
            own = loaded.from_own_sums(mend=True)
            slots = differences_by_slot(own, loaded)
    except ValueError as error:
        raise InvalidRequest("body", f"the snapshot's posterior is none: {error}") from error
    for name, tensor in own.to_tensors().items():
        most = RIDGES * policy.config.ridge if name.endswith("zz") else LARGEST
        if tensor.size and not np.abs(tensor).max() <= most:
            raise InvalidRequest("body", f"the snapshot's posterior is none: {name} is too large")
    differences = [number for found in slots.values() for number in found.values()]
    if not all(number <= ROUNDING for number in differences) or _options(own) != _options(loaded):
        policy.posterior = own


def _options(posterior: GaussianPosterior | DisjointPosterior) -> dict[str, list[float]]:
    """Return the tensors that are no result of the sums."""
    tensors = posterior.to_tensors()
    return {n: t.ravel().tolist() for n, t in tensors.items() if n.split("/")[-1] in _OPTIONS}
