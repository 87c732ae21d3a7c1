"""A round that two processes share, against the same round of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.module import load_module_tensors
from bandexa_core.posterior.tensors import take_prefix
from bandexa_core.replay import RankShare
from service.settings import Settings
from service.training.messages import Configuration
from service.training.worker.ranks import torchrun_ranks
from tests.training.shared_round import (
    CASES,
    Found,
    plan_of,
    policy_of,
    rows_of,
    trained,
    weights_of,
)

SIZE = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> dict[str, list[Found]]:
    """What each rank has found in each case."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.shared_round", str(rank), str(SIZE), folder],
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(SIZE)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0] * SIZE
    finally:
        for process in processes:
            process.kill()
    return {
        case: [dict(np.load(folder / f"{case}-{rank}.npz")) for rank in range(SIZE)]
        for case in CASES
    }


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_have_the_same_model(ranks, case):
    first, second = ranks[case]
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("case", [case for case in CASES if case != "batch statistics"])
def test_a_shared_round_is_that_of_one_process_up_to_rounding(ranks, case, tmp_path):
    """Each step has the rows that one process draws, so the encoders differ by float32 alone."""
    alone, shared = trained(case, tmp_path), ranks[case][0]
    assert shared.keys() == alone.keys()
    for name in alone:
        np.testing.assert_allclose(shared[name], alone[name], rtol=2e-3, atol=2e-4, err_msg=name)
    assert shared["metric/optimizer_steps"] == 40
    assert shared["metric/loss_after"] < shared["metric/loss_before"]


@pytest.mark.parametrize("case", CASES)
def test_the_posterior_is_the_rebuild_of_the_same_encoder_by_one_process(ranks, case, tmp_path):
    found = take_prefix(ranks[case][0], "policy/")
    policy, rows = policy_of(case), rows_of(case, tmp_path)
    policy.load_tensors(found)
    load_module_tensors(policy.module, take_prefix(found, "encoder/"))
    policy.encoder = serving(policy.module)
    frame = policy.posterior.frame
    policy.rebuild(rows, plan_of(case).rebuild_chunk, weights_of(case, rows), frame=frame)
    alone = policy.tensors()
    posterior = {name for name in alone if name.startswith("posterior/")}
    assert posterior
    for name in posterior:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_shares_are_all_rows_of_a_step_and_all_chunks_of_a_scan(tmp_path):
    rows = rows_of("joint", tmp_path)
    shares = [RankShare(rows, rank, 3, 8) for rank in range(3)]
    assert [share.num_drawn for share in shares] == [3, 3, 2]
    assert sum(share.weight for share in shares) == pytest.approx(1.0)
    drawn = [share.sample(np.random.default_rng(1), share.num_drawn) for share in shares]
    whole = rows.sample(np.random.default_rng(1), 8)
    positions = np.concatenate([each.positions for each in drawn])
    assert sorted(positions.tolist()) == whole.positions.tolist()
    read = [[part.positions for part in share.scan(50)] for share in shares]
    assert [len(parts) for parts in read] == [3, 2, 2]
    joined = np.concatenate([position for parts in read for position in parts])
    assert sorted(joined.tolist()) == rows.positions().tolist()


def test_a_rank_for_which_no_row_of_a_step_is_left_reads_one_of_no_weight(tmp_path):
    share = RankShare(rows_of("joint", tmp_path), 1, 2, 1)
    assert (share.num_drawn, share.weight) == (1, 0.0)
    assert len(share.sample(np.random.default_rng(1), 1)) == 1


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}])
def test_a_process_without_others_is_alone(tmp_path, environment):
    configuration = Configuration.of(Settings(data_dir=tmp_path), 1)
    found = torchrun_ranks(configuration, environment)
    assert (found.rank, found.size) == (0, 1)
