"""The ResNet encoder: how images are prepared, what is frozen, what trains, what is stored."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.module import (
    BASE_HASH,
    SplitModuleEncoder,
    load_module_tensors,
    module_tensors,
)
from bandexa_core.encoders.torch.resnet import ResNetEncoder
from bandexa_core.encoders.torch.torchvision_compat import import_torchvision
from bandexa_core.replay import MemoryReplay, RowLayout, Rows
from bandexa_core.training.encoder_trainer import EncoderTrainer
from bandexa_core.training.plan import TrainingRound

PREPARED: dict[str, Any] = {"shape": (3, 32, 40), "dtype": "float32", "image_size": None}
TRAINABLE: list[Any] = ["layer4", "none", "all", ["layer4.1", "layer3"], ["layer4.1.bn2"]]


def _images(shape: tuple[int, ...], num: int = 3, dtype: str = "uint8", seed: int = 0):
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return torch.from_numpy(rng.integers(0, 256, (num, *shape), np.uint8))
    return torch.from_numpy(rng.normal(size=(num, *shape)).astype(dtype))


def _train(module: ResNetEncoder, shape: tuple[int, ...], rounds: int = 2) -> EncoderTrainer:
    """Take rounds of two steps on rows whose reward is how bright the image is."""
    contexts = _images(shape, 24).numpy()
    rewards = contexts.reshape(24, -1).mean(1) / 255 - 0.5
    replay = MemoryReplay(RowLayout(shape, "uint8", 0))
    actions = np.zeros((24, 0), np.float32)
    replay.append(Rows(np.arange(1, 25), np.arange(24) % 3, rewards, actions, contexts))
    state: dict[str, Any] = {}
    for number in range(rounds):
        plan = TrainingRound(
            num_rows=24, actions=actions[:3], steps=2, batch_size=8, lr=1e-2, weight_decay=1e-2,
            rebuild_chunk=8, reward_scale=1.0, seed=number, num_heads=3,
        )  # fmt: skip
        trainer = EncoderTrainer(module, plan)
        trainer.load_tensors(state)
        trainer.run(replay)
        state = trainer.tensors()
    return trainer


def _bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _moved(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}


# -- shapes and parts -------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("options", "action_dim", "uses_action"),
    [
        ({}, 0, False),
        ({}, 4, True),
        ({"heads": "per_action"}, 4, False),
        ({"heads": "fused", "shape": (20, 30, 3)}, 4, True),
        (PREPARED, 4, True),
        (PREPARED | {"dtype": "float64"}, 0, False),
    ],
)
def test_images_and_actions_become_features(make_resnet, options, action_dim, uses_action) -> None:
    module = make_resnet(action_dim=action_dim, feature_dim=6, hidden=9, **options)
    assert (module.output_dim, module.uses_action) == (6, uses_action)
    shape, dtype = options.get("shape", (28, 28)), options.get("dtype", "uint8")
    contexts = _images(shape, 3, dtype).numpy()
    actions = np.random.default_rng(1).normal(size=(5, action_dim)).astype(np.float32)
    encoder = serving(module)
    assert encoder.encode(contexts, actions[:3]).shape == (3, 7)
    together = encoder.encode_batch(contexts[0], actions)
    assert together.shape == (5, 7)
    assert np.isfinite(together).all()


def test_the_default_size_follows_the_image(make_resnet) -> None:
    for shape, size in (((28, 28), 64), ((64, 20, 3), 64), ((65, 20), 224)):
        module = make_resnet(shape=shape, image_size=None)
        assert module._prepare(_images(shape, 1)).shape == (1, 3, size, size)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnet101", "resnet152"])
def test_deeper_networks_are_there_by_name_and_stay_in_range(make_resnet, name: str) -> None:
    module = make_resnet(name)
    with torch.inference_mode():
        part = module.context_part(_images((28, 28), 2))
    assert part.shape == (2, 512 if name == "resnet34" else 2048)
    assert 0.01 < part.mean() < 1.0


def test_the_backbone_runs_once_per_context(make_resnet) -> None:
    encoder = serving(make_resnet(action_dim=4))
    assert isinstance(encoder, SplitModuleEncoder)
    seen: list[int] = []
    backbone = encoder._module.get_submodule("backbone")
    for name in ("conv1", "layer4"):
        backbone.get_submodule(name).register_forward_hook(
            lambda module, inputs, output: seen.append(len(inputs[0]))
        )
    actions = np.ones((10, 4), np.float32)
    encoder.encode_batch(_images((28, 28)).numpy()[0], actions)
    assert seen == [1, 1]
    encoder.combine(np.zeros(512), encoder.action_part(actions))
    assert seen == [1, 1]


def test_a_long_batch_goes_through_in_pieces(make_resnet, monkeypatch) -> None:
    module, images = make_resnet(), _images((28, 28), 5)
    with torch.inference_mode():
        whole = module.context_part(images)
        monkeypatch.setattr(
            "bandexa_core.encoders.torch.resnet.PIXELS_AT_ONCE", {"cpu": 2 * 32 * 32}
        )
        seen: list[int] = []
        module.backbone.conv1.register_forward_hook(lambda m, x, y: seen.append(len(x[0])))
        torch.testing.assert_close(module.context_part(images), whole, rtol=1e-4, atol=1e-5)
        assert seen == [2, 2, 1]
        assert module.context_part(images[:0]).shape == (0, 512)


# -- preprocessing ----------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize("shape", [(28, 28), (50, 40), (28, 28, 3), (50, 40, 3), (32, 32)])
def test_bytes_are_prepared_as_torchvision_does(make_resnet, shape: tuple[int, ...]) -> None:
    import_torchvision()
    v2 = importlib.import_module("torchvision.transforms.v2")
    reference = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((32, 32), antialias=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = _images(shape)
    planes = images.permute(0, 3, 1, 2) if len(shape) == 3 else images[:, None].repeat(1, 3, 1, 1)
    found = make_resnet(shape=shape)._prepare(images)
    assert found.shape == (3, 3, 32, 32)
    torch.testing.assert_close(found, reference(planes), rtol=0, atol=1e-5)


def test_floating_images_are_taken_as_they_are(make_resnet) -> None:
    images = _images((3, 32, 40), dtype="float32")
    assert torch.equal(make_resnet(**PREPARED)._prepare(images), images)


# -- what is frozen ---------------------------------------------------------------------------


@pytest.mark.few(3)
@pytest.mark.parametrize("trainable", TRAINABLE, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_the_frozen_part_and_the_rest_make_the_whole(make_resnet, trainable, training) -> None:
    module = make_resnet(action_dim=4, trainable=trainable).train(training)
    contexts, actions = _images((28, 28)), torch.ones(3, 4)
    kept = module.frozen_activations(contexts)
    assert not kept.requires_grad
    found = module.forward_from(kept, actions)
    assert torch.equal(found, module(contexts, actions))
    assert found.requires_grad


def test_the_frozen_prefix_ends_before_the_first_trainable_stage(make_resnet) -> None:
    shapes = {
        "none": (512,), "layer4": (256, 2, 2), ("layer4.1", "layer3"): (128, 4, 4),
        ("bn1",): (3, 32, 32), "all": (3, 32, 32),
    }  # fmt: skip
    for trainable, shape in shapes.items():
        given = list(trainable) if isinstance(trainable, tuple) else trainable
        kept = make_resnet(trainable=given).frozen_activations(_images((28, 28)))
        assert kept.shape == (3, *shape)


def test_equal_keys_mean_equal_activations(make_resnet) -> None:
    key = make_resnet(seed=1).frozen_key()
    assert make_resnet(seed=2, feature_dim=5).frozen_key() == key
    others: list[dict[str, Any]] = [
        {"image_size": 40}, {"trainable": "none"}, {"name": "resnet34"},
    ]  # fmt: skip
    assert len({key, *(make_resnet(**other).frozen_key() for other in others)}) == 4


@pytest.mark.few(1)
@pytest.mark.parametrize("trainable", TRAINABLE, ids=str)
def test_training_moves_what_is_trainable_and_nothing_else(make_resnet, trainable) -> None:
    module = make_resnet(trainable=trainable)
    before, names = _bits(module), dict(module.named_parameters())
    trainer = _train(module, (28, 28))
    prefixes = {"layer4": ["layer4"], "none": [], "all": [""]}
    under = trainable if isinstance(trainable, list) else prefixes[trainable]
    wanted = {
        name
        for name in names
        if not name.startswith("backbone.")
        or any(name.startswith(f"backbone.{prefix}") for prefix in under)
    }
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    own = {id(p) for p in trainer.head.parameters()}
    assert held == own | {id(names[name]) for name in wanted}
    moved = _moved(before, module)
    assert moved & set(names) == wanted
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert moved & statistics == (statistics if trainable == "all" else set())


def test_frozen_batch_norm_stays_in_eval_mode(make_resnet) -> None:
    for trainable, training in (("layer4", False), (["layer1"], False), ("all", True)):
        module = make_resnet(trainable=trainable).train()
        assert module.training
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.training for norm in norms} == {training}
        assert not any(m.training for m in module.eval().modules())


# -- what is stored ---------------------------------------------------------------------------


def test_a_snapshot_holds_what_is_trained_and_a_hash_of_the_rest(make_resnet) -> None:
    sizes = {
        trainable: sum(t.nbytes for t in module_tensors(make_resnet(trainable=trainable)).values())
        for trainable in ("none", "layer4", "all")
    }
    assert sizes["none"] < 400_000 < 33_000_000 < sizes["layer4"] < 35_000_000
    assert 44_000_000 < sizes["all"] < 46_000_000
    assert not any("running_" in name for name in module_tensors(make_resnet()))
    assert BASE_HASH not in module_tensors(make_resnet(trainable="all"))


@pytest.mark.few(1)
@pytest.mark.parametrize("trainable", TRAINABLE, ids=str)
def test_a_trained_module_comes_back_bit_for_bit(make_resnet, trainable) -> None:
    module = make_resnet(trainable=trainable, seed=1)
    _train(module, (28, 28), 1)
    other = make_resnet(trainable=trainable, seed=2)
    load_module_tensors(other, module_tensors(module))
    assert _moved(_bits(module), other) == set()


def test_another_base_is_refused(make_resnet) -> None:
    module, other = make_resnet(), make_resnet()
    tensors = module_tensors(module)
    with torch.no_grad():
        other.backbone.layer2[0].conv1.weight[0] += 1
    with pytest.raises(ValueError, match="base weights changed"):
        load_module_tensors(other, tensors)
    with pytest.raises(ValueError, match="base weights changed"):
        load_module_tensors(module, {n: t for n, t in tensors.items() if n != BASE_HASH})
    frozen = {"backbone.conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}
    with pytest.raises(ValueError, match=r"encoder: .*conv1"):
        load_module_tensors(module, tensors | frozen)


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "field"),
    [
        ((28,), "uint8", "shape"),
        ((28, 28, 4), "uint8", "shape"),
        ((3, 28, 28), "uint8", "shape"),
        ((1, 28, 28), "float32", "shape"),
        ((2, 3, 28, 28), "float32", "shape"),
        ((28, 28), "float32", "dtype"),
        ((28, 28, 3), "float64", "dtype"),
    ],
)
def test_what_is_no_image_is_refused(make_resnet, shape, dtype, field) -> None:
    with pytest.raises(ValueError, match=rf"^context\.{field}: "):
        make_resnet(shape=shape, dtype=dtype)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("feature_dim", value) for value in [0, 1.5, None, True]),
        *(("hidden", value) for value in [0, [128], "128"]),
        *(("heads", value) for value in ["shared", "", 1, "fused"]),
        *(("image_size", value) for value in [31, 1025, 64.0, True, "64"]),
        *(("trainable", value) for value in ["layer3", "", [], ["layer5"], [3], 4, None, {}]),
        *(("weights", value) for value in ["", None, 3, "unknown"]),
    ],
)
def test_a_bad_parameter_is_named(make_resnet, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^encoder\.params\.{field}: "):
        make_resnet(**{field: value})


def test_prepared_images_cannot_be_resized(make_resnet) -> None:
    with pytest.raises(ValueError, match=r"^encoder\.params\.image_size: "):
        make_resnet(**PREPARED | {"image_size": 32})


@pytest.mark.parametrize("name", ["depth", "architecture", "context_dtype", "context_shape"])
def test_an_unknown_parameter_is_named(make_resnet, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^encoder\.params: .*{name}"):
        make_resnet(**{name: 1})
