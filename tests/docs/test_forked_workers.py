"""`--forks`: what happens to tests in forked workers is reported as without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT

FINE = "import pytest\n\n@pytest.mark.parametrize('n', range(5))\ndef test_fine(n): print(n)\n"
WRONG = (
    "def test_wrong():\n    print('what it printed')\n    assert 1 == 2\n\ndef test_after(): pass\n"
)
GONE = "import os\n\ndef test_gone(): os._exit(7)\n"
LEAVES = (  # in the teardown of the session, after the last report
    "import os, pytest\n\n@pytest.fixture(scope='session', autouse=True)\n"
    "def ends():\n    yield\n    os._exit(9)\n\ndef test_leaves(): pass\n"
)
SKIPPED = "import pytest\n\ndef test_skipped(): pytest.skip('for a reason')\n"


def run(folder: Path, *arguments: str, **files: str) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "tests.fixtures.forks"]
    command += ["-p", "no:cacheprovider", "--forks", "2", *arguments]
    command += ["--rootdir", str(folder), str(folder)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_results_and_output_are_those_of_one_process(tmp_path: Path) -> None:
    done = run(tmp_path, fine=FINE, wrong=WRONG, skipped=SKIPPED)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 6 passed, 1 skipped" in done.stdout
    assert "what it printed" in done.stdout
    assert "for a reason" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("text", "status"), [(GONE, 7), (LEAVES, 9)])
def test_a_worker_that_ends_is_a_failure_of_its_test(
    tmp_path: Path, text: str, status: int
) -> None:
    done = run(tmp_path, fine=FINE, ends=text)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"the worker ended with status {status}" in done.stdout
    assert "1 failed" in done.stdout


@pytest.mark.slow
def test_the_first_failure_ends_all_workers_where_that_is_asked_for(tmp_path: Path) -> None:
    sleeps = "import time\n\ndef test_sleeps(): time.sleep(100)\n"
    done = run(tmp_path, "-x", sleeps=sleeps, wrong=WRONG)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
