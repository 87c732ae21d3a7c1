"""Settings of a bandit on the command line: types, ranges and refusals."""

from __future__ import annotations

import dataclasses

import pytest

from bandexa_core.spec import BanditSpec, ContextSpec
from simulators.overrides import apply_overrides, parse_overrides


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("training.batch_size=64", 64),
        ("training.lr=0.5", 0.5),
        ("training.lr=1", 1),
        ("training.train_every=null", None),
        ("encoder.standardize=false", False),
        ("encoder.name=mine", "mine"),
        ('encoder.name="mine"', "mine"),
        ("replay.backend=disk", "disk"),
        ("reward_range=[0, 50]", [0, 50]),
        ("encoder.params.hidden=[64,64]", [64, 64]),
        ("encoder.params.weights=imagenet", "imagenet"),
        ("encoder.params.weights=a=b", "a=b"),
    ],
)
def test_a_value_has_the_type_of_its_setting(assignment: str, value: object) -> None:
    [parsed] = parse_overrides([assignment]).values()
    assert parsed == value
    assert type(parsed) is type(value)


def test_every_setting_can_be_given_but_those_of_the_simulation() -> None:
    """The defaults of a specification, written as assignments, return unchanged."""
    spec = dataclasses.asdict(BanditSpec(policy="linear_ts", context=ContextSpec(shape=(1,))))
    simulated = {"policy", "context", "action_dim", "actions", "seed", "edition"}
    operated = {"arms", "sticky", "segment", "guard", "mode", "serve", "limits"}
    given = {key: value for key, value in spec.items() if key not in simulated | operated}
    del given["training"]["mode"], given["encoder"]["params"]
    flat = {"reward_range": "[0.0, 1.0]"}
    for section, values in given.items():
        if section != "reward_range":
            flat |= {f"{section}.{name}": _text(value) for name, value in values.items()}
    parsed = parse_overrides([f"{key}={text}" for key, text in flat.items()])
    body: dict[str, object] = {}
    apply_overrides(body, parsed)
    assert body == given | {"reward_range": [0.0, 1.0]}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("training.batch_size", "is not of the form KEY=VALUE"),
        ("training.batchsize=8", r"not a setting of a bandit; did you mean training\.batch_size\?"),
        ("batch_size=8", r"did you mean training\.batch_size\?"),
        ("training=8", "not a setting of a bandit"),
        ("zebra=8", "not a setting of a bandit$"),
        ("encoder.params=8", r"did you mean encoder\.params\.NAME\?"),
        ("encoder.params.=8", r"did you mean encoder\.params\.NAME\?"),
        ("training.batch_size=6.5", "takes an integer, not '6.5'"),
        ("training.batch_size=true", "takes an integer, not 'true'"),
        ("training.optimizer_steps=few", "takes an integer or null, not 'few'"),
        ("training.lr=NaN", "takes a number, not 'NaN'"),
        ("training.lr=-1", r"training\.lr: must be a finite number above 0"),
        ("posterior.prior_var=1" + "0" * 400, "posterior"),
        ("encoder.standardize=1", "takes true or false, not '1'"),
        ("encoder.params.lr=1e999", r"encoder\.params: must hold finite numbers"),
        ("replay.backend=tape", "takes auto or memory or disk, not 'tape'"),
        ("reward_range=[1]", r"takes \[a number, a number\] or null, not"),
        ("reward_range=[1, 0]", "reward_range: needs two finite numbers, the lower one first"),
        ("training.batch_size=0", r"training\.batch_size: must be 1 to 65536"),
        ("forgetting.half_life=3", r"forgetting\.half_life: must be 32"),
        ("policy=greedy", "policy is set by --policies"),
        ("seed=1", "seed is set by --seeds and --first-seed"),
        ("training.mode=lockstep", r"training\.mode is set by --live"),
        ("context.shape=[3]", r"context\.shape is set by the workload"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_reason(assignment: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_overrides([assignment])


def test_a_setting_is_given_once() -> None:
    with pytest.raises(ValueError, match=r"training\.lr is set twice"):
        parse_overrides(["training.lr=1", "training.lr=1"])


def test_settings_are_checked_together() -> None:
    """A default reward needs a window to close, which another setting gives."""
    with pytest.raises(ValueError, match="needs a reward_window_s"):
        parse_overrides(["rewards.default_reward=0"])
    assert parse_overrides(["rewards.default_reward=0", "rewards.reward_window_s=60"])


def test_settings_are_written_where_their_keys_say() -> None:
    body: dict[str, object] = {"policy": "greedy", "training": {"mode": "lockstep"}}
    apply_overrides(
        body, {"training.lr": 0.5, "encoder.params.hidden": [8], "reward_range": [0, 9]}
    )
    assert body == {
        "policy": "greedy",
        "training": {"mode": "lockstep", "lr": 0.5},
        "encoder": {"params": {"hidden": [8]}},
        "reward_range": [0, 9],
    }
