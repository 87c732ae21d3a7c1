"""From the engine to the answers that describe it: bandits, the trainer, findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from bandexa_core.log.metrics import Totals
from bandexa_core.policies import LinearHead
from bandexa_core.schema import Encoding, FieldCounts
from bandexa_core.spec.changes import relearned_part
from bandexa_core.spec.warnings import warnings_of
from service.http.earned import action_values, arm_state, lift_lines
from service.http.schemas.bandits import (
    BanditAnswer,
    CrossState,
    FeaturesState,
    FieldState,
    KeyChange,
    MetricState,
    PlanAnswer,
    RebuildState,
    SideState,
    TripState,
)
from service.http.schemas.challengers import ChallengerState, PromotionRule, ScoreState
from service.http.schemas.health import (
    BanditLearning,
    FieldRates,
    FindingAnswer,
    Learning,
    TrainerState,
)
from service.observe.health import Finding, bandit_findings, failed_finding
from service.serving.bandit import Bandit
from service.serving.challengers import Challenger
from service.serving.engine import Engine
from service.serving.failed_bandits import SetAside
from service.serving.observed import SideCounts, named_inputs
from service.serving.planning import Plan, differences

NOWHEN: Mapping[str, float] = MappingProxyType({})


def state_of(engine: Engine, bandit: Bandit) -> BanditAnswer:
    """Return configuration and state of a bandit."""
    model = bandit.model
    return BanditAnswer(
        name=bandit.record.name,
        uid=bandit.record.uid,
        spec=model.spec,
        num_actions=len(model.catalogue.enabled_slots),
        snapshot=model.version,
        position=model.position,
        num_learned=model.progress.num_learned,
        train_due=model.round_due(),
        learning=learning_state(engine, bandit),
        trainer=trainer_state(engine),
        features=features_state(bandit),
        metrics=metrics_state(bandit),
        rebuild=rebuild_state(engine, bandit),
        maturity_s=engine.rewards.maturity_s(bandit),
        imported=bandit.num_imported,
        arms=[arm_state(each) for each in bandit.current_standing()],
        action_values=action_values(bandit.earned),
        guarded=trip_state(bandit),
        challengers=challenger_states(bandit),
        unlearning="pending" if engine.rounds.must_unlearn(bandit) else "none",
        warnings=[each.message for each in warnings_of(model.spec)],
        held_values=model.held.num,
    )


def metrics_state(bandit: Bandit) -> dict[str, MetricState] | None:
    """Return what was reported of each metric; None where there are none."""
    learn, totals = bandit.model.spec.rewards.learn or {}, bandit.metrics.totals
    found = {}
    for name in sorted({*totals, *learn}):
        num, total = totals.get(name, Totals())
        mean = total / num if num else None
        found[name] = MetricState(count=num, sum=total, mean=mean, weight=learn.get(name))
    return found or None


def challenger_states(bandit: Bandit) -> list[ChallengerState]:
    """Return the challengers of a bandit, by name."""
    return [
        challenger_state(bandit, bandit.challengers[name]) for name in sorted(bandit.challengers)
    ]


def challenger_state(bandit: Bandit, challenger: Challenger) -> ChallengerState:
    """Return what is known of a challenger."""
    served, score = bandit.model.spec, challenger.score
    state = challenger.state(bandit.configurations, served)
    arms = {arm.name: arm.share for arm in served.arms if arm.challenger is not None}
    compared = None
    if score is not None:
        values = msgspec.to_builtins(score)
        compared = ScoreState(**values, is_better=score.is_better)
    return ChallengerState(
        name=challenger.name, state=state,
        share=1.0 if state == "served" else arms.get(challenger.name, 0.0),
        differs=challenger.given, created=challenger.created, score=compared,
        promotion=PromotionRule(**msgspec.to_builtins(challenger.rule)),
    )  # fmt: skip


def trip_state(bandit: Bandit) -> TripState | None:
    """Return why a guard made an arm serve everything; None where none did."""
    trip = bandit.configurations.trip
    return None if trip is None else TripState(**trip._asdict())


def rebuild_state(engine: Engine, bandit: Bandit) -> RebuildState | None:
    """Return the newest change that had to be relearned; None where there was none."""
    known, rows = bandit.configurations, bandit.model.progress.num_learned
    pending = known.pending
    if pending is not None and known.awaited is not None:
        state: Literal["pending", "building", "failed"] = "pending"
        if engine.rounds.is_building(bandit):
            state = "building"
        elif bandit.change_error is not None:
            state = "failed"
        served = relearned_part(bandit.model.spec)
        keys = [each.key for each in differences(served, relearned_part(known.awaited))]
        return RebuildState(
            state=state, keys=keys, rows=rows, requested_at=pending.time,
            position=pending.position, served_from=None, spec=known.awaited,
            error=bandit.change_error,
        )  # fmt: skip
    if not known.switches:
        return None
    switch = known.switches[-1]
    is_served = bandit.model.generation == switch.generation  # the row is logged just before
    before, after = known.spec(switch.position - 1), known.spec(switch.position)
    keys = [each.key for each in differences(relearned_part(before), relearned_part(after))]
    asked = known.requested_by(switch)
    return RebuildState(
        state="done" if is_served else "building", keys=keys, rows=rows,
        requested_at=asked.time, position=asked.position,
        served_from=switch.position if is_served else None, spec=after,
    )  # fmt: skip


def plan_answer(bandit: Bandit | None, plan: Plan) -> PlanAnswer:
    """Return the answer that shows a plan; `bandit`: None where it would be created."""
    rows = lost = 0
    if bandit is not None and plan.relearned:
        rows, lost = bandit.model.progress.num_learned, bandit.model.progress.inherited_rows
    return PlanAnswer(
        status=plan.status,
        changes=[KeyChange(key=each.key, old=each.old, new=each.new) for each in plan.changes],
        relearned=list(plan.relearned), rows=rows, lost_rows=lost, estimated_s=plan.estimated_s,
        spec=plan.spec, warnings=[each.message for each in warnings_of(plan.spec)],
    )  # fmt: skip


def features_state(bandit: Bandit) -> FeaturesState | None:
    """Return what is known of the named features of a bandit; None where it has none."""
    named = named_inputs(bandit.model.policy)
    if named is None:
        return None
    policy = bandit.model.policy
    crosses = policy.crosses if isinstance(policy, LinearHead) else None
    return FeaturesState(
        context=_side_state(named.x, bandit.inputs.contexts),
        actions=_side_state(named.a, bandit.inputs.actions),
        crosses=None if crosses is None else [CrossState(**each._asdict()) for each in crosses],
    )


def _side_state(encoding: Encoding | None, counts: SideCounts) -> SideState | None:
    if encoding is None:
        return None
    observed, drift = counts.under(encoding), counts.drift_under(encoding)
    columns = {part.path: len(part.columns) for part in encoding.parts}
    types = {path: known.type for path, known in encoding.fields.items()}
    fields = {}
    for path in sorted(types.keys() | observed.fields.keys()):
        seen = observed.fields.get(path, FieldCounts())
        fields[path] = FieldState(
            type=types.get(path),
            columns=None if encoding.is_first else columns.get(path, 0),
            missing=observed.missing(path), converted=seen.converted, unseen=seen.unseen,
            wrong=seen.wrong, extreme=seen.extreme, hashed=seen.hashed, collided=seen.collided,
            log=encoding.features.personal.get(path, "keep"), drift=drift.get(path),
        )  # fmt: skip
    return SideState(
        num_rows=encoding.num_rows, num_columns=encoding.width, fields=fields,
        num_counted=observed.rows, unknown=observed.unknown,
        unknown_names=dict(sorted(observed.unknown_names.items())),
    )  # fmt: skip


def trainer_state(engine: Engine) -> TrainerState:
    """Return the state of the trainer process."""
    supervisor = engine.rounds.supervisor
    return TrainerState(
        state=supervisor.state,
        phase=supervisor.phase,
        pid=supervisor.pid,
        rounds=supervisor.rounds,
    )


def learn_state(engine: Engine, bandit: Bandit) -> BanditLearning:
    """Return whether a bandit still learns, and whether it is better than its arms."""
    whole = learning_state(engine, bandit)
    return BanditLearning(
        **dict(whole), lifts=lift_lines(bandit), action_values=action_values(bandit.earned)
    )


def learning_state(engine: Engine, bandit: Bandit) -> Learning:
    """Return whether a bandit still learns."""
    return Learning(
        findings=answered(bandit_findings(engine, bandit), bandit.found_since),
        join_rate=bandit.vitals.join_rate(),
        reward_mean=bandit.vitals.reward_mean,
        clipped_values=bandit.vitals.num_clipped,
        refused_rewards=bandit.vitals.rewards.get("refused", 0),
        judged_values=0 if bandit.evidence.top is None else bandit.evidence.num,
        loss_shown_after_s=bandit.vitals.loss_shown_after_s(),
        feature_rates=dict(_feature_rates(bandit)),
    )


def _feature_rates(bandit: Bandit) -> Iterator[tuple[str, FieldRates]]:
    """Yield the fields that have a rate above 0, by side and path."""
    named = named_inputs(bandit.model.policy)
    sides = () if named is None else (
        ("context", named.x, bandit.inputs.contexts), ("actions", named.a, bandit.inputs.actions),
    )  # fmt: skip
    for side, encoding, counts in sides:
        observed = None if encoding is None else counts.under(encoding)
        if encoding is None or observed is None or not observed.rows:
            continue
        for path in sorted(encoding.fields.keys() | observed.fields.keys()):
            seen, rows = observed.fields.get(path, FieldCounts()), observed.rows
            rates = FieldRates(
                missing=observed.missing(path) / rows, unseen=seen.unseen / rows,
                wrong=seen.wrong / rows,
                collided=seen.collided / seen.hashed if seen.hashed else None,
            )  # fmt: skip
            if rates.missing or rates.unseen or rates.wrong or rates.collided:
                yield f"{side}.{path}", rates


def not_served(bandit: SetAside) -> BanditLearning:
    """Return what is wrong with a bandit that was set aside."""
    return BanditLearning(
        findings=answered([failed_finding(bandit.failure)]), join_rate=None, reward_mean=None
    )


def answered(findings: list[Finding], since: Mapping[str, float] = NOWHEN) -> list[FindingAnswer]:
    """Return findings in the form of an answer; `since`: when each began, by name."""
    return [
        FindingAnswer(**dataclasses.asdict(finding), since=since.get(finding.name))
        for finding in findings
    ]
