"""Images beside named fields over the life of their data: relearned, killed, copied, removed.

A photo has a bright row or a bright column. Which of two actions is right depends on it and on the
device beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fixtures.commands import bandexa

FIELDS: dict[str, Any] = {"photo": {"type": "image", "shape": [8, 8]}, "device": "category"}
SPEC: dict[str, Any] = {
    "context": {"features": FIELDS, "max_bytes": 512}, "seed": 3, "reward_range": [0, 1],
    "training": {"mode": "lockstep", "train_every": 400, "optimizer_steps": 150},
    "selection": {"warmup_random": 300},
    "replay": {"backend": "disk", "capacity": 200, "evicted_sample": 100},
}  # fmt: skip
DEVICES = ("phone", "pc")
ACTIONS = ["a", "b"]
NUM = 300


def visit(number: int) -> tuple[dict[str, Any], str]:
    """Return what a visit sends, and the right action."""
    rng = np.random.default_rng(number)
    pixels, at = rng.integers(0, 60, (8, 8)), rng.integers(1, 7)
    stripe, device = (int(each) for each in rng.integers(2, size=2))
    if stripe:
        pixels[:, at] = 250
    else:
        pixels[at] = 250
    return {"photo": pixels.tolist(), "device": DEVICES[device]}, ACTIONS[stripe ^ device]


def play(node, first: int, num: int, bandit: str = "stripes") -> float:
    """Select and reward; returns the share of right actions."""
    hits = 0
    for start in range(first, first + num, 50):
        visits = [visit(number) for number in range(start, start + 50)]
        items = [
            {"bandit": bandit, "context": context, "decision_id": f"{bandit}-{start + place}"}
            for place, (context, _) in enumerate(visits)
        ]
        made = node.call("POST", "/select/batch", {"items": items})["items"]
        chosen = [item["answer"]["action"]["id"] for item in made]
        right = [action == best for action, (_, best) in zip(chosen, visits, strict=True)]
        rewards = [
            {"decision_id": item["decision_id"], "reward": float(hit)}
            for item, hit in zip(items, right, strict=True)
        ]
        answers = node.call("POST", "/reward/batch", {"items": rewards})["items"]
        assert {item["answer"]["status"] for item in answers} == {"applied"}
        hits += sum(right)
    return hits / num


def means(node, bandit: str = "stripes") -> list[float]:
    """Return the means of both actions for eight probes."""
    found = [
        node.call("POST", f"/bandits/{bandit}/score", {"context": visit(10_000 + number)[0]})
        for number in range(8)
    ]
    return [row["mean"] for each in found for row in each["scores"]]


def changed(node, spec: dict[str, Any]) -> dict[str, Any]:
    """Change the bandit and wait until that is served."""
    state: dict[str, Any] = node.call("PUT", "/bandits/stripes", spec, wait="true")
    assert state["rebuild"]["state"] == "done"
    return state


def verified(node) -> None:
    done = bandexa("verify", node.data_dir, "--live", str(node.http.base_url), "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok" in done.stdout


@pytest.fixture(scope="module")
def stripes(launch) -> Any:
    """A server whose bandit has learned what the photos show."""
    node = launch("stripes")
    node.call("PUT", "/bandits/stripes", SPEC)
    node.call("PUT", "/bandits/stripes/actions", {"ids": ACTIONS})
    play(node, 0, NUM)
    node.train("stripes")
    return node


def test_what_the_photos_show_is_served_again_after_a_kill(stripes) -> None:
    assert stripes.state("stripes")["spec"]["encoder"]["name"] == "conv"
    assert play(stripes, NUM, 50) > 0.8  # half by chance
    before = means(stripes)
    stripes.kill()
    stripes.start()
    assert means(stripes) == pytest.approx(before, rel=1e-5)
    verified(stripes)


def test_another_prior_and_another_field_are_learned_from_the_photos_in_the_log(stripes) -> None:
    num = stripes.state("stripes")["num_learned"]
    state = changed(stripes, SPEC | {"posterior": {"prior_var": 2.0}})
    assert (state["rebuild"]["keys"], state["num_learned"]) == (["posterior.prior_var"], num)
    wide = {"context": {"features": FIELDS | {"hour": "number"}, "max_bytes": 512}}
    state = changed(stripes, SPEC | wide)
    assert state["features"]["context"]["fields"]["hour"]["type"] == "number"
    assert play(stripes, NUM + 50, 50) > 0.8
    verified(stripes)


@pytest.mark.slow
def test_photos_of_another_shape_can_be_declared_and_the_old_ones_are_not_lost(stripes) -> None:
    before = means(stripes)
    smaller = {"photo": {"type": "image", "shape": [4, 4]}, "device": "category"}
    changed(stripes, SPEC | {"context": {"features": smaller, "max_bytes": 512}})
    context, _ = visit(5)
    refused = stripes.http.post("/select", json={"bandit": "stripes", "context": context})
    assert refused.status_code == 422
    assert "context.photo" in refused.text
    verified(stripes)
    changed(stripes, SPEC)
    assert np.corrcoef(before, means(stripes))[0, 1] > 0.5
    assert play(stripes, 1000, 50) > 0.8
    verified(stripes)


@pytest.mark.slow
def test_an_export_of_photos_is_imported_as_evidence(stripes, tmp_path) -> None:
    file = tmp_path / "stripes.jsonl"
    url = ["--url", str(stripes.http.base_url)]
    done = bandexa("export", "stripes", file, *url)
    assert done.returncode == 0, done.stderr
    stripes.call("PUT", "/bandits/warm", SPEC)
    stripes.call("PUT", "/bandits/warm/actions", {"ids": ACTIONS})
    done = bandexa("import", "warm", file, *url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stripes.state("warm")["num_learned"] == stripes.state("stripes")["num_learned"]
    stripes.train("warm")
    assert play(stripes, 20_000, 50, "warm") > 0.8
    verified(stripes)


@pytest.mark.slow
def test_a_backup_of_photos_goes_on(stripes, launch, tmp_path) -> None:
    dest = tmp_path / "copy"
    done = bandexa("backup", stripes.data_dir, dest)
    assert done.returncode == 0, done.stderr
    restored = launch("restored", content=dest)
    assert means(restored) == pytest.approx(means(stripes), rel=1e-5)
    assert play(restored, 30_000, 50) > 0.8
    verified(restored)


@pytest.mark.slow
def test_photos_that_have_left_the_log_are_in_the_sample(stripes, rig) -> None:
    """The last test of the server: only the sample and the newest rows remain."""
    num = stripes.state("stripes")["num_learned"]
    assert stripes.stop() == 0
    stripes.env["BANDEXA_MAX_AGE_DAYS"] = "1e-9"
    stripes.start()
    known = "/bandits/stripes/decisions/stripes-0"
    rig.poll(lambda: stripes.http.get(known).status_code == 404, "the first photo is removed")
    before = means(stripes)
    state = changed(stripes, SPEC | {"posterior": {"prior_var": 1.5}})
    assert state["num_learned"] == num
    assert np.isfinite(means(stripes)).all()
    assert np.corrcoef(before, means(stripes))[0, 1] > 0.5
    assert play(stripes, 40_000, 50) > 0.7
    stripes.train("stripes")
    verified(stripes)
