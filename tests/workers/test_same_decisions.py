"""One connection to a server of several workers decides as one process does, to the last bit."""

from __future__ import annotations

import pytest

from tests.workers.workloads import WORKLOADS, played


@pytest.mark.few(2)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_in_lockstep_decides_as_one_process_does(api, crew, workload) -> None:
    spec, context = WORKLOADS[workload]
    name = f"same-{workload}"
    alone = played(api, name, spec, context)
    beside = played(crew.apis[2], name, spec, context)
    assert alone == beside
