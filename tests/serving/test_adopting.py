"""A bandit takes its own snapshots back, whatever it has learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, ActionSlot, BanditUid, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.model import ServingModel
from bandexa_core.posterior.agreement import own_differences
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec, PosteriorSpec
from service.serving.adopting import ROUNDING, Adopted, fit
from service.store.errors import InvalidRequest

SPEC = BanditSpec(
    policy="linear_ts", context=ContextSpec(shape=(2,)), action_dim=2, seed=1,
    encoder=EncoderSpec(name="concat"), reward_range=(0.0, 1.0),
    posterior=PosteriorSpec(prior_mean=0.0),
)  # fmt: skip
PER_ACTION = replace(SPEC, encoder=EncoderSpec(name="per_action"))
ACTION = np.ones(2, np.float32)


def model(spec: BanditSpec = SPEC) -> ServingModel:
    change = CatalogueChange((ActionId("x"),), ACTION[None], np.ones(1, np.bool_))
    catalogue, _ = Catalogue.empty(SPEC.row_layout).changed(change)
    return ServingModel(spec, BanditUid("uid"), EncoderRegistry(), catalogue)


def extreme() -> ServingModel:
    """Return a model that has learned a reward of 1e8 and its correction."""
    found, rng = model(), np.random.default_rng(0)
    policy: Any = found.policy
    for number in range(60):
        context = rng.normal(size=2).astype(np.float32)
        policy.learn(context, ACTION, ActionSlot(0), None, 1e8 if number == 30 else 0.1)
        if number == 30:
            policy.learn(context, ACTION, ActionSlot(0), 1e8, 0.1)
    return found


def manifest_of(num_rows: int, spec: BanditSpec = SPEC) -> Manifest:
    return Manifest(
        version=SnapshotVersion(1), parent=None, bandit_uid=BanditUid("uid"),
        position=LogPosition(1), log_hash="", spec_hash=spec.model_hash(), num_rows=num_rows,
        epoch=1, encoder=spec.encoder.name, metrics={}, meta={"actions": ["x"]},
    )  # fmt: skip


def learned(spec: BanditSpec = SPEC) -> ServingModel:
    found, rng = model(spec), np.random.default_rng(1)
    for _ in range(200):  # most are in the sums, some still wait
        context = rng.normal(size=2).astype(np.float32)
        found.policy.learn(context, ACTION, ActionSlot(0), None, float(context[0]))
    return found


@pytest.mark.parametrize("spec", [SPEC, PER_ACTION], ids=["joint", "per action"])
@pytest.mark.parametrize("factor", [0.0, 0.999])
def test_sums_that_are_no_whole_sums_are_completed_and_rows_go_on_from_there(
    spec: BanditSpec, factor: float
) -> None:
    """Products that are not symmetric or zero, and a sum of squares that the others exceed."""
    tensors = learned(spec).tensors()
    where = "posterior/" if spec is SPEC else "posterior/0/"
    zz = tensors[f"{where}zz"]
    tensors[f"{where}zz"] = factor * np.triu(zz) + factor**2 * np.tril(zz, -1)
    tensors[f"{where}rr"] = 1e-3 * tensors[f"{where}rr"]
    taken = model(spec)
    fit(Adopted(manifest_of(200, spec), tensors, {}), taken, is_own=False)
    policy: Any = taken.policy
    sums = policy.posterior.statistics()
    joint = sums if spec is SPEC else sums[0]
    assert np.array_equal(joint.zz, joint.zz.T)
    for number in range(20):
        context = np.array([number / 20, 1.0], np.float32)
        policy.learn(context, ACTION, ActionSlot(0), None, float(context[0]))
    assert max(own_differences(policy.posterior)[0].values()) < 1e-9


@pytest.mark.parametrize("spec", [SPEC, PER_ACTION], ids=["joint", "per action"])
def test_products_that_no_rows_have_are_mended_before_they_are_factorised(spec) -> None:
    """A negative eigenvalue that the prior nearly hides would leave next to no digits."""
    tensors = learned(spec).tensors()
    where = "posterior/" if spec is SPEC else "posterior/0/"
    zz = tensors[f"{where}zz"]
    hidden = 1.0 - 1e-9  # of the prior's precision
    eigenvalues, vectors = np.linalg.eigh(zz)
    eigenvalues[0] = -hidden * spec.posterior_config().ridge
    tensors[f"{where}zz"] = (vectors * eigenvalues) @ vectors.T
    tensors[f"{where}waiting"] = tensors[f"{where}waiting"][:0]
    taken = model(spec)
    fit(Adopted(manifest_of(200, spec), tensors, {}), taken, is_own=False)
    policy: Any = taken.policy
    sums = policy.posterior.statistics()
    joint = sums if spec is SPEC else sums[0]
    assert np.linalg.eigvalsh(joint.zz)[0] > -1e-12 * eigenvalues[-1]
    deviations = np.linalg.norm(
        policy.posterior.root if spec is SPEC else policy.posterior.slot(0).root, axis=1
    )
    assert deviations.max() < 1.01 * spec.posterior_config().ridge ** -0.5, "at most the prior's"


@pytest.mark.parametrize("factor", [1e20, 1e200])
def test_sums_beyond_which_arithmetic_rounds_the_prior_away_are_refused(factor: float) -> None:
    tensors = learned().tensors()
    tensors["posterior/zz"] = factor * (np.eye(len(tensors["posterior/zz"])))
    with pytest.raises(InvalidRequest, match="too large"):
        fit(Adopted(manifest_of(200), tensors, {}), model(), is_own=False)


def test_an_own_snapshot_is_taken_though_an_extreme_reward_has_rounded_its_sums() -> None:
    found = extreme()
    policy: Any = found.policy
    worst = max(own_differences(policy.posterior)[0].values())
    assert worst > ROUNDING, "or this tests nothing"
    adopted = Adopted(manifest_of(60), found.tensors(), {})
    taken, imported = model(), model()
    fit(adopted, taken, is_own=True)
    for name, tensor in found.tensors().items():
        assert np.array_equal(taken.tensors()[name], tensor)
    # Of another bandit's it serves what the sums give.
    fit(adopted, imported, is_own=False)
    other: Any = imported.policy
    policy.posterior.refresh()
    assert max(own_differences(other.posterior)[0].values()) < ROUNDING
    for name, tensor in found.tensors().items():
        if not name.endswith("/rr"):
            assert np.array_equal(imported.tensors()[name], tensor), name
