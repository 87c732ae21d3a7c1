"""A ResNet bandit on a real server: from creation to training, restart, export and refusals."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.encoders.torch.resnet import ResNetEncoder
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec
from service.http.app import create_app
from service.settings import Settings

PARAMS = {"image_size": 32, "weights": "mine"}
RESNET: dict[str, Any] = {
    "policy": "neural_linear_ts",
    "context": {"shape": [28, 28], "dtype": "uint8"},
    "action_dim": 0,
    "encoder": {"name": "resnet18", "params": PARAMS},
    "training": {"mode": "lockstep", "optimizer_steps": 2, "batch_size": 8},
}
IMAGE = np.arange(28 * 28).reshape(28, 28) % 256


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file as torchvision writes them."""
    spec = BanditSpec(
        policy="neural_linear_ts",
        context=ContextSpec(shape=(28, 28), dtype="uint8"),
        action_dim=0,
        encoder=EncoderSpec(name="resnet18"),
    )
    module = EncoderRegistry().module(spec, 0)
    assert isinstance(module, ResNetEncoder)
    state = module.backbone.state_dict()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(state | {"conv1.weight": state["conv1.weight"] * 1.5}, path)
    return path


@pytest.fixture(scope="module")
def config(weights: Path) -> Path:
    path = weights.with_name("bandexa.toml")
    path.write_text(f'[weights]\nmine = "{weights}"\n')
    return path


@pytest.fixture(scope="module")
def resnets(start_module_server, api_of, config: Path) -> Iterator[Any]:
    """A server that knows the weights file."""
    server = start_module_server(None, "--config", str(config))
    with server.client() as client:
        yield api_of(client)


def _teach(api: Any, name: str, envelope: Any, num: int = 8) -> None:
    rng = np.random.default_rng(0)
    for _ in range(num):
        image = envelope(rng.integers(0, 256, (28, 28)), "uint8")
        chosen = api.select(name, image)
        api.reward(chosen["decision_id"], float(chosen["action"]["index"]))


def test_it_selects_trains_and_is_the_same_after_a_restart(
    start_server, api_of, envelope, config: Path
) -> None:
    server = start_server(None, "--config", str(config))
    with server.client() as client:
        api = api_of(client)
        name = api.bandit(["x", "y", "z"], **RESNET)
        before = api.means(name, IMAGE.tolist())
        _teach(api, name, envelope)
        answer = api.train(name)
        assert (answer["snapshot"], answer["metrics"]["optimizer_steps"]) == (1, 2)
        _teach(api, name, envelope, 2)  # a tail after the snapshot
        scores = api.scores(name, IMAGE.tolist())
        assert [row["mean"] for row in scores["scores"]] != before
    server.stop()
    with start_server(server.data_dir, "--config", str(config)).client() as client:
        assert api_of(client).scores(name, IMAGE.tolist()) == scores


@pytest.mark.slow
def test_an_export_serves_a_bandit_of_the_same_base(resnets, envelope) -> None:
    name = resnets.bandit(["x", "y"], **RESNET)
    copy = resnets.bandit(["x", "y"], **RESNET)
    _teach(resnets, name, envelope)
    data = resnets.http.get(f"/bandits/{name}/snapshot").content
    assert 33_000_000 < len(data) < 36_000_000  # one stage of four, but most of the weights
    answer = resnets.http.put(f"/bandits/{copy}/snapshot", content=data)
    assert answer.status_code == 200, answer.text
    assert resnets.means(copy, IMAGE.tolist()) == resnets.means(name, IMAGE.tolist())


@pytest.mark.parametrize(
    ("encoder", "field"),
    [
        ({"name": "resnet34", "params": PARAMS}, "encoder.params.weights"),
        ({"name": "resnet18", "params": {"weights": "yours"}}, "encoder.params.weights"),
        ({"name": "resnet18", "params": {"trainable": "layer9"}}, "encoder.params.trainable"),
        ({"name": "resnet18", "params": {"depth": 18}}, "encoder.params"),
    ],
)
def test_an_encoder_that_cannot_be_built_is_refused(resnets, problem, encoder, field) -> None:
    response = resnets.http.put(f"/bandits/{resnets.fresh()}", json=RESNET | {"encoder": encoder})
    problem(response, 422, "invalid-request", field)


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"shape": [784], "dtype": "uint8"}, "context.shape"),
        ({"shape": [28, 28]}, "context.dtype"),
    ],
)
def test_contexts_that_are_no_images_are_refused(resnets, problem, context, field) -> None:
    response = resnets.http.put(f"/bandits/{resnets.fresh()}", json=RESNET | {"context": context})
    problem(response, 422, "invalid-request", field)


def test_an_image_of_another_shape_or_cut_short_is_refused(resnets, problem, envelope) -> None:
    name = resnets.bandit(["x", "y"], **RESNET)
    whole = envelope(IMAGE, "uint8")
    cut = base64.b64encode(base64.b64decode(whole["data"])[:-1]).decode()
    bad = [
        envelope(IMAGE[:27], "uint8"), envelope(IMAGE.reshape(-1), "uint8"),
        envelope(IMAGE / 255, "float32"), IMAGE[:27].tolist(), (IMAGE + 1).tolist(),
        whole | {"data": cut}, whole | {"data": whole["data"][:-3]}, whole | {"data": "*"},
    ]  # fmt: skip
    for context in bad:
        response = resnets.http.post("/select", json={"bandit": name, "context": context})
        problem(response, 422, "invalid-request", "context")
    assert resnets.select(name, whole)["propensity"] is not None


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_server_does_not_start_with_weights_it_cannot_read(
    weights: Path, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "weights.pth"
    if damage == "truncated":
        path.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"^weights\.mine: "):
        create_app(Settings(data_dir=tmp_path / "data", weights={"mine": path}))
    assert not (tmp_path / "data").exists()
