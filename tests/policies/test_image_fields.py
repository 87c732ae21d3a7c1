"""An image and other fields decide together, through a network that a round trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.encoders.torch.conv import ConvEncoder
from bandexa_core.ids import BanditUid
from bandexa_core.policies.factory import make_policy
from bandexa_core.policies.neural_linear_ts import NeuralLinearTS
from bandexa_core.spec import ActionsSpec, BanditSpec, ContextSpec, EncoderSpec
from benchmarks.in_process import InProcessClient

FIELDS = {"photo": {"type": "image", "shape": [8, 8]}, "device": "category"}
CONTEXT: dict[str, Any] = {"features": FIELDS, "max_bytes": 512}
DEVICES = ("phone", "pc")


def _stripes(number: int, rng: np.random.Generator) -> list[list[int]]:
    """Return noise with a bright row for 0, a bright column for 1."""
    pixels = rng.integers(0, 60, (8, 8))
    at = rng.integers(1, 7)
    if number:
        pixels[:, at] = 250
    else:
        pixels[at] = 250
    return pixels.tolist()  # type: ignore[no-any-return]


def _spec(**sections: Any) -> BanditSpec:
    return BanditSpec(context=ContextSpec(**CONTEXT), **sections)


def test_which_action_is_best_depends_on_the_image_and_on_the_field_beside_it() -> None:
    rng = np.random.default_rng(1)
    training = {"mode": "lockstep", "train_every": 50}
    spec = {"context": CONTEXT, "training": training, "seed": 1}
    client = InProcessClient("stripes", spec, ["a", "b"], None)
    hits = []
    for step in range(260):
        stripe, device = (int(number) for number in rng.integers(2, size=2))
        visit = {"photo": _stripes(stripe, rng), "device": DEVICES[device]}
        chosen = client.select("", visit, decision_id=str(step)).action.index
        hits.append(chosen == stripe ^ device)
        if client.reward(str(step), float(hits[-1])).train_due:
            client.train("")
    assert np.mean(hits[-100:]) > 0.9
    policy = client.model.policy
    assert isinstance(policy, NeuralLinearTS)
    assert isinstance(policy.module, ConvEncoder)
    again = make_policy(client.model.spec, BanditUid("1" * 16), EncoderRegistry())
    again.load_tensors(policy.tensors())
    assert isinstance(again, NeuralLinearTS)
    assert again.named is not None
    assert policy.named is not None
    assert again.named.image == policy.named.image
    rows = np.zeros((1, 512), np.uint8)
    none = np.zeros((1, 0), np.float32)
    assert np.array_equal(again.features(rows, none), policy.features(rows, none))


def test_named_actions_have_a_path_of_their_own() -> None:
    policy = make_policy(
        _spec(actions=ActionsSpec(features="auto")), BanditUid("1" * 16), EncoderRegistry()
    )
    assert isinstance(policy, NeuralLinearTS)
    assert isinstance(policy.module, ConvEncoder)
    assert policy.module.uses_action
    assert set(policy.module.input_sides()) == {"action.0.weight", "fields.0.weight"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"policy": "linear_ts"}, "policy: linear_ts takes no image"),
        ({"encoder": EncoderSpec(name="kernel")}, "encoder.name: kernel takes no image beside"),
        ({"encoder": EncoderSpec(name="crosses")}, "encoder.name: crosses takes no image beside"),
        ({"encoder": EncoderSpec(name="resnet18")}, "encoder.name: resnet18 takes no image"),
        (
            {"encoder": EncoderSpec(name="conv", params={"image": [1, 2]})},
            "encoder.params.image: there is no such parameter",
        ),
    ],
)
def test_what_takes_no_image_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(_spec(**sections), BanditUid("1" * 16), EncoderRegistry())


def test_a_limit_that_no_image_fits_into_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_bytes: photo takes up to 284 bytes"):
        ContextSpec(features=FIELDS, max_bytes=283)
    ContextSpec(features=FIELDS, max_bytes=284)
    with pytest.raises(ValueError, match=r"^features\.photo: contexts alone"):
        ActionsSpec(features=FIELDS, max_bytes=512)
