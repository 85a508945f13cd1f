"""What the benchmarks keep and print of what they found."""

import json
import os
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks import peers, results
from benchmarks.results import Figure, Outcome, Verdict

SLOW, FAST = (
    Figure(case=case, measure="through", unit="a second", samples=samples, more=True)
    for case, samples in (("theirs", (10.0, 30.0, 20.0)), ("ours", (40.0,)))
)


def outcome(**changes: object) -> Outcome:
    values = {"name": "x", "title": "X", "baseline": "theirs"} | changes
    return Outcome(figures=[SLOW, FAST], **values)


def test_a_table_shows_the_samples_and_the_ratio_of_the_medians(capsys) -> None:
    outcome().show()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["theirs", "30", "20", "20", "10", "3", "1.00x"] in lines
    assert ["ours", "40", "40", "40", "-", "1", "2.00x"] in lines


def test_a_peer_that_was_not_measured_is_named_with_the_reason(capsys) -> None:
    outcome(missing={"huey": "no module"}).show()
    assert "not measured: huey: no module" in capsys.readouterr().out


def test_a_lower_limit_is_met_from_above() -> None:
    verdicts = [
        Verdict(what="w", figure=1.4, limit=1.5, least=least) for least in (True, False)
    ]
    assert [verdict.met for verdict in verdicts] == [False, True]
    assert not outcome(verdicts=verdicts).met


def test_the_file_has_the_machine_and_each_figure(tmp_path: Path) -> None:
    path = tmp_path / "found" / "results.json"
    results.write(path, [outcome()], seconds=1.0)
    found = json.loads(path.read_text())
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["Django"]
    [theirs, ours] = found["scenarios"][0]["figures"]
    assert (theirs["mean"], theirs["sd"], theirs["n"]) == (20.0, 10.0, 3)
    assert (ours["sd"], ours["more"]) == (None, True)


def test_each_peer_has_a_module() -> None:
    missing = [
        name for name in peers.PEERS if find_spec(f"benchmarks.peers.{name}") is None
    ]
    assert missing == []


def test_a_process_ends_with_all_that_it_started(tmp_path: Path) -> None:
    from benchmarks.processes import started
    from tests.support.waiting import wait_until

    child = tmp_path / "child"
    command = ["sh", "-c", f"sleep 60 & echo $! > {child}; wait"]
    with ExitStack() as stack:
        stack.enter_context(started(command, {}, tmp_path / "log"))
        wait_until(lambda: child.exists() and child.read_text().strip(), "a child")
    number = int(child.read_text())
    wait_until(lambda: not _runs(number), "the end of the child")


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"  # it has ended, and waits to be collected
