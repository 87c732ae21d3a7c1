"""`bandexa rewards`: outcomes from files, once each; wrong ones void or corrected."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import app

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def run(server) -> Run:
    """Run a command against the session's server: `run(*arguments, expect=0)`."""

    def command(*arguments: str, expect: int = 0, url: str = "") -> Result:
        environment = {"BANDEXA_URL": url or server.url}
        result = CliRunner().invoke(app, list(arguments), env=environment)
        assert result.exit_code == expect, result.output
        return result

    return command


def of_json(result: Result) -> Any:
    return json.loads(result.stdout)


def table(path: Path, rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return str(path)


def decide(api: Any, name: str, num: int) -> list[str]:
    items = [{"bandit": name, "context": [0.1 * n, 1.0]} for n in range(num)]
    answers = api.call("POST", "/select/batch", {"items": items})["items"]
    return [each["answer"]["decision_id"] for each in answers]


def counts(report: dict[str, Any]) -> dict[str, int]:
    names = ("applied", "duplicate", "ignored", "late", "void", "unknown", "refused")
    return {name: report[name] for name in names if report[name]}


def test_columns_of_metrics_are_imported(api, run: Run, tmp_path: Path) -> None:
    name = api.two_actions(rewards={"learn": {"money": 1, "click": 0.5}})
    ids = decide(api, name, 5)
    rows = [
        (ids[0], 1, 9.5, "x", ""), (ids[1], 0, "", "x", ""), (ids[2], "", "", "x", ""),
        (ids[3], "many", 1, "x", ""), (ids[4], 1, "", "x", 2),
    ]  # fmt: skip
    head = ("decision_id", "metrics.click", "metrics.money", "note", "reward")
    file = table(tmp_path / "late.csv", rows, head)
    done = of_json(run("rewards", "import", file, "--json", expect=1))
    assert counts(done) == {"applied": 2, "refused": 3}
    reasons = [problem["reason"] for problem in done["problems"]]
    assert "reward: it is missing" in reasons[0]
    assert "metrics.click: 'many' is no finite number" in reasons[1]
    assert "either" in reasons[2]
    assert of_json(run("rewards", "import", file, "--json", expect=1))["duplicate"] == 2
    found = api.call("GET", f"/bandits/{name}/decisions/{ids[0]}")["chosen"][0]
    assert (found["value"], found["metrics"]) == (10.0, {"click": 1.0, "money": 9.5})
    shown = run("rewards", "correct", name, ids[0], "--metric", "money=2", "--metric", "click=1")
    assert "2.5, before: 10" in shown.stdout
    run("rewards", "correct", name, ids[0], "--metric", "money", expect=2)


def test_a_file_is_imported_and_again_changes_nothing(api, run: Run, tmp_path: Path) -> None:
    name = api.two_actions(rewards={"aggregate": "sum"})
    ids = decide(api, name, 40)
    rows = [(each, 0.5, f"r{part}") for each in ids for part in range(2)]
    file = table(tmp_path / "late.csv", rows, ("decision_id", "reward", "reward_id"))
    dry = of_json(run("rewards", "import", file, "--dry-run", "--json"))
    assert (counts(dry), dry["dry_run"], dry["complete"]) == ({"applied": 80}, True, True)
    assert api.state(name)["num_learned"] == 0
    # A killed run has reported some of them.
    for row in rows[:15]:
        api.reward(row[0], row[1], reward_id=row[2])
    done = of_json(run("rewards", "import", file, "--json"))
    assert counts(done) == {"applied": 65, "duplicate": 15}
    assert api.state(name)["num_learned"] == 40
    again = run("rewards", "import", file)
    assert again.stdout.startswith("80 rows: 0 applied, 80 duplicate")
    found = api.call("GET", f"/bandits/{name}/decisions/{ids[0]}")["chosen"][0]
    assert found["value"] == 1.0


def test_lines_that_are_not_taken_are_named_and_all_others_are(
    api, run: Run, tmp_path: Path
) -> None:
    name, other = api.two_actions(), api.two_actions()
    ids = decide(api, name, 4)
    api.reward(ids[3], 1.0)
    rows = [
        (ids[0], "1.5", "x-1", "", name),
        ("nobody", 1, "", "", ""),  # line 3
        (ids[1], "much", "", "", ""),
        (ids[1], "nan", "", "", ""),
        ("", 1, "", "", ""),
        (ids[1], 1, "", "", other),  # line 7
        ("no such id!", 1, "", "", ""),
        (ids[2], -2, "", "", ""),
        (ids[3], 0.5, "", "", ""),
    ]
    head = ("decision_id", "reward", "reward_id", "action", "bandit")
    file = table(tmp_path / "mixed.csv", rows, head)
    result = run("rewards", "import", file, "--json", expect=1)
    report = of_json(result)
    assert counts(report) == {"applied": 2, "ignored": 1, "unknown": 1, "refused": 5}
    assert {each["line"]: each["status"] for each in report["problems"]} == {
        3: "unknown", 4: "refused", 5: "refused", 6: "refused", 7: "refused", 8: "refused",
    }  # fmt: skip
    reasons = {each["line"]: each["reason"] for each in report["problems"]}
    assert "'much' is no finite number" in reasons[4]
    assert "decision_id" in reasons[6]
    assert "bandit" in reasons[7]
    printed = run("rewards", "import", file, expect=1).stderr
    assert "line 3: unknown: " in printed
    assert api.state(name)["num_learned"] == 3


def test_a_file_that_is_no_table_is_refused(run: Run, tmp_path: Path) -> None:
    file = table(tmp_path / "short.csv", [("d0", 1)], ("decision_id", "value"))
    assert "'reward' is missing" in run("rewards", "import", file, expect=2).stderr
    missing = run("rewards", "import", str(tmp_path / "none.csv"), expect=2)
    assert missing.stderr.endswith("none.csv: there is no such file\n")
    (tmp_path / "bytes.csv").write_bytes(b"decision_id,reward\n\xff\xfe,1\n")
    wrong = run("rewards", "import", str(tmp_path / "bytes.csv"), expect=2).stderr
    assert "it is not in UTF-8" in wrong
    assert "run it again" not in wrong, "no row of it was sent, and it has to be mended first"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decision_id;reward\nd0;1\n", "its first line has semicolons between columns"),
        ("decision_id\treward\nd0\t1\n", "its first line has tabs between columns"),
        ("Decision_ID,Reward\nd0,1\n", "'Reward'; names are in small letters, without blanks"),
        ("decision_id, reward\nd0, 1\n", "' reward'; names are in small letters, without blanks"),
        ("d0,1\n", "its first line, which names the columns, has 'd0', '1'\n"),
        ("", "it is empty"),
    ],
)
def test_what_is_wrong_with_the_first_line_is_said(
    run: Run, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "head.csv"
    file.write_text(text)
    result = run("rewards", "import", str(file), expect=2)
    assert message in result.stderr
    assert result.stdout == ""


def test_a_bad_row_in_the_middle_is_named_and_the_others_are_stored(
    api, run: Run, tmp_path: Path
) -> None:
    name = api.two_actions()
    ids = decide(api, name, 4)
    file = table(
        tmp_path / "middle.csv", [(ids[0], 1), (ids[1], "0,5"), (ids[2], ""), (ids[3], 0)],
        ("decision_id", "reward"),
    )  # fmt: skip
    result = run("rewards", "import", file, expect=1)
    assert "4 rows: 2 applied" in result.stdout
    assert result.stderr.splitlines() == [
        "line 3: refused: reward: '0,5' is no finite number; write a point, not a comma",
        "line 4: refused: reward: it is missing",
    ]


def test_without_a_server_the_status_says_to_try_again(run: Run, tmp_path: Path) -> None:
    file = table(tmp_path / "one.csv", [("d0", 1)], ("decision_id", "reward"))
    result = run("rewards", "import", file, url="http://127.0.0.1:9", expect=3)
    assert "run it again" in result.stderr


def test_parquet_is_read_like_csv(api, run: Run, tmp_path: Path) -> None:
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    ids = decide(api, api.two_actions(), 3)
    columns = {"decision_id": [*ids, None], "reward": [1.0, None, 0.5, 1.0], "note": ["a"] * 4}
    file = tmp_path / "late.parquet"
    parquet.write_table(pyarrow.table(columns), file)
    report = of_json(run("rewards", "import", str(file), "--json", expect=1))
    assert counts(report) == {"applied": 2, "refused": 2}
    assert [each["line"] for each in report["problems"]] == [2, 4]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    run("rewards", "import", str(tmp_path / "broken.parquet"), expect=2)


def test_rewards_become_void_and_are_corrected(api, run: Run, tmp_path: Path) -> None:
    name = api.two_actions()
    ids = decide(api, name, 5)
    for each in ids:
        api.reward(each, 7.0)
    listed = tmp_path / "wrong.txt"
    listed.write_text(f"{ids[0]}\n\n{ids[1]}\n")
    dry = run("rewards", "void", name, "--from", str(listed), "--dry-run").stdout
    assert dry == "2 values of 2 decisions, from 2 rewards, would become void\n"
    done = of_json(run("rewards", "void", name, "--from", str(listed), "--wait", "--json"))
    assert (done["values"], done["learned"], done["unlearning"]) == (2, 2, "none")
    assert api.state(name)["num_learned"] == 3
    unknown = run("rewards", "void", name, "--decision", ids[2], "--decision", "nobody", expect=1)
    assert "nobody" in unknown.stderr
    fixed = run("rewards", "correct", name, ids[3], "0.5").stdout
    assert fixed.endswith(": 0.5, before: 7 (applied)\n")
    rest = run("rewards", "void", name, "--since", "2020-01-01", "--wait", "--json")
    assert of_json(rest)["values"] == 2
    for arguments in ([], ["--decision", ids[0], "--since", "1"], ["--since", "noon"]):
        run("rewards", "void", name, *arguments, expect=2)
