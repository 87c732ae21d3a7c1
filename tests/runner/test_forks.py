"""`--forks`: what is seen of tests that fail, hang, kill their worker or are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT
from tests.fixtures.waiting import WITHIN_S, poll

# The first test of a file: it waits until each of four workers has a file.
STARTS = """
import time
from pathlib import Path

def test_starts():
    Path(__file__).with_suffix(".runs").touch()
    while len(list(Path().glob("*.runs"))) < 4:
        time.sleep(0.01)
"""
OUTCOMES = """
import threading
import pytest

@pytest.fixture
def leaves():
    yield
    raise ValueError("in the teardown")

def test_passes(): pass
def test_skips(): pytest.skip("a reason to skip")
def test_fails():
    print("what it printed")
    assert [1, 2] == [1, 3]
def test_leaves(leaves): pass

@pytest.mark.timeout(1)
def test_hangs():
    other = threading.Thread(target=threading.Event().wait, name="another thread", daemon=True)
    other.start()
    threading.Event().wait()
"""
KILLED = """
import os, signal
def test_kills(): os.kill(os.getpid(), signal.SIGKILL)
def test_after(): pass
"""
# Its child has the pipe of the worker.
EXITS = """
import os
def test_exits():
    if os.fork():
        os._exit(0)
    os.read(int(os.environ["UNTIL"]), 1)  # which ends with the test that started all this
    os._exit(0)
"""
# In the teardown of the session, after the last result.
LEAVES = """
import os, pytest
@pytest.fixture(scope="session")
def ends():
    yield
    os._exit(9)
def test_leaves_later(ends): pass
"""
# Neither a signal nor an exception gets through to the main thread.
DEAF = """
import signal, threading
def test_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    threading.Event().wait()
"""
WAITS = """
import contextlib, os, threading, time
from pathlib import Path
import pytest

NAME = Path(__file__).stem

@pytest.fixture(scope="session")
def shared():
    yield
    time.sleep(0.2)  # an interrupt would find it here
    Path(NAME + ".shared").touch()

@pytest.fixture
def own():
    yield
    time.sleep(0.2)
    Path(NAME + ".own").touch()

def test_waits(shared, own):
    Path(NAME + ".runs").touch()
    while len(list(Path().glob("*.runs"))) < 2:
        time.sleep(0.01)
    if "FAILS" in os.environ:
        with contextlib.suppress(FileExistsError):
            Path("failed").touch(exist_ok=False)
            raise ValueError("the first one")
    threading.Event().wait()
"""


class Run:
    """A run of pytest with `--forks` on the files of a folder."""

    def __init__(
        self, folder: Path, *arguments: str, pass_fds: tuple[int, ...] = (), **variables: str
    ) -> None:
        self._output = folder / "output"  # no pipe: children of a worker have it as well
        plugins = ("tests.fixtures.forks", "pytest_timeout", "no:cacheprovider")
        options = [part for plugin in plugins for part in ("-p", plugin)]
        environment = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "-rs", *options, *arguments, "."],
                cwd=folder, env=os.environ | environment, stdout=output, stderr=output,
                start_new_session=True, pass_fds=pass_fds,
            )  # fmt: skip

    def end(self) -> tuple[int, str]:
        """Wait for its end and return its exit status and what it printed."""
        try:
            return self.process.wait(WITHIN_S), self._output.read_text()
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


def files(folder: Path, **texts: str) -> Path:
    """Write files of tests."""
    for name, text in texts.items():
        (folder / f"test_{name}.py").write_text(text)
    (folder / "pytest.ini").touch()
    return folder


def test_each_outcome_is_shown_and_every_worker_that_died_is_a_failure(tmp_path: Path) -> None:
    """The files of other workers are run to their end, and nothing waits for a worker's children.

    OUTCOMES: 2 pass (one of them fails in its teardown), 1 is skipped, 2 fail. KILLED: a worker
    gets SIGKILL, and a test is not run. EXITS: a worker ends with status 0, as if all were well.
    LEAVES: one passes, and its worker ends. STARTS passes 4 times.
    """
    texts = {"outcomes": OUTCOMES, "killed": KILLED, "exits": EXITS, "leaves": LEAVES}
    files(tmp_path, **{name: STARTS + text for name, text in texts.items()})
    until, ours = os.pipe()
    status, output = Run(tmp_path, "--forks", "4", pass_fds=(until,), UNTIL=str(until)).end()
    os.close(ours)
    os.close(until)
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert "5 failed, 7 passed, 1 skipped, 2 errors" in output
    for text in (
        "SKIPPED [1] test_outcomes.py:19: a reason to skip",
        "what it printed",
        "ValueError: in the teardown",
        "Failed: Timeout (>1.0s) from pytest-timeout.",
        "another thread",
        "the worker ended with status -9; this was its last test",
        "the worker ended with status 9; this was its last test",
        "the worker ended with status 0; this was its last test",
        "not run: its worker has ended",
    ):
        assert text in output, output


def test_files_that_no_worker_is_left_for_are_failures(tmp_path: Path) -> None:
    files(tmp_path, **dict.fromkeys("ab", KILLED), c="def test_one(): pass\ndef test_two(): pass")
    status, output = Run(tmp_path, "--forks", "2").end()
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert "2 failed, 4 errors" in output, output
    assert output.count("not run: every worker has ended") == 2, output


def test_a_file_waits_for_whoever_is_free_first(tmp_path: Path) -> None:
    """`a` does not end before every other file has: none of them waits behind it."""
    waits = """
import time
from pathlib import Path
def test_waits():
    while len(list(Path().glob("*.ended"))) < 2:
        time.sleep(0.01)
"""
    ends = """
from pathlib import Path
def test_ends(): Path(__file__).with_suffix(".ended").touch()
"""
    files(tmp_path, a=waits, b=ends, c=ends)
    status, output = Run(tmp_path, "--forks", "2", "--timeout", "30").end()
    assert status == pytest.ExitCode.OK, output


def test_a_worker_that_no_time_limit_reaches_is_ended(tmp_path: Path) -> None:
    status, output = Run(files(tmp_path, deaf=DEAF), "--forks", "2", "--timeout", "2").end()
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert "the worker ended with status -6; this was its last test" in output
    assert "in test_deaf" in output  # the stacks of the worker


def test_the_first_failure_ends_all_workers_and_everything_is_torn_down(tmp_path: Path) -> None:
    files(tmp_path, **dict.fromkeys("abcd", WAITS))
    status, output = Run(tmp_path, "--forks", "2", "-x", FAILS="yes").end()
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert "1 failed in" in output
    assert len(list(tmp_path.glob("*.shared"))) == len(list(tmp_path.glob("*.own"))) == 2, output


def test_an_interrupt_of_the_terminal_ends_all_workers_and_everything_is_torn_down(
    tmp_path: Path,
) -> None:
    """A terminal interrupts all processes; the one that forked them interrupts them again."""
    files(tmp_path, **dict.fromkeys("abcd", WAITS))
    run = Run(tmp_path, "--forks", "2")
    poll(lambda: len(list(tmp_path.glob("*.runs"))) == 2, "both tests run")
    os.killpg(run.process.pid, signal.SIGINT)
    status, output = run.end()
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert "KeyboardInterrupt" in output
    assert len(list(tmp_path.glob("*.shared"))) == len(list(tmp_path.glob("*.own"))) == 2, output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--forks", "-1"), "--forks: -1 is not a number of processes"),
        (("--forks", "2", "--basetemp", "x"), "--forks and --basetemp exclude each other"),
        (("--forks", "2", "-p", "xdist", "-n", "2"), "--forks and -n exclude each other"),
    ],
)
def test_what_forks_cannot_do_is_refused(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    status, output = Run(files(tmp_path, killed=KILLED), *arguments).end()
    assert status == pytest.ExitCode.USAGE_ERROR
    assert message in output


@pytest.mark.slow
def test_a_child_that_a_test_has_left_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """It has all descriptors of the worker: the template process ends without it."""
    files(tmp_path, exits=EXITS, killed=KILLED)
    until, ours = os.pipe()
    template = ("-p", "tests.fixtures.commands")  # it is started for two files and more
    run = Run(tmp_path, *template, "--forks", "1", pass_fds=(until,), UNTIL=str(until))
    status, output = run.end()
    os.close(ours)
    os.close(until)
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert "the worker ended with status 0; this was its last test" in output
