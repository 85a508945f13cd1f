"""What the benchmarks keep and print of what they found."""

import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import page, peers, results
from benchmarks.charts import Bar, draw
from benchmarks.results import Figure, Outcome, Verdict
from tests.support.waiting import PATIENCE, wait_until

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
        Verdict(what="w", figure=1.4, limit=1.5, reason="r", least=least)
        for least in (True, False)
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


def test_the_page_and_its_charts_are_those_of_the_figures_beside_them() -> None:
    found = json.loads(page.DATA.read_text("utf-8"))
    assert page.PAGE.read_text("utf-8") == page.page(found), (
        "python -m benchmarks.publish --render"
    )
    charts = {
        page.chart_name(scenario, measure): page.chart(scenario, measure)
        for scenario in found["scenarios"]
        for measure in scenario["charts"]
    }
    for path in page.CHARTS.glob("*.svg"):
        assert path.read_text("utf-8") == charts.pop(path.name)
    assert not any(charts.values())


def test_the_page_names_a_scenario_that_failed_with_its_reason() -> None:
    failed = Outcome(name="x", title="X", baseline="", missing={"all": "no `server`"})
    found = json.loads(page.DATA.read_text("utf-8"))
    found["scenarios"] = [{**failed.as_json()}]
    assert "## X\n\n* Not measured: all, because of `no server`" in page.page(found)


@pytest.mark.parametrize(("values", "is_steep"), [((1, 40), False), ((1, 41), True)])
def test_a_chart_is_logarithmic_if_its_bars_differ_much(values, is_steep) -> None:
    bars = [Bar(label=f"b{value}", value=value) for value in values]
    drawn = ElementTree.fromstring(draw("Title <1>", "ms", bars, more=False))
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "Title <1>" in texts
    assert {"b1", f"b{values[1]}", "other promises"} < set(texts)
    assert ("logarithmic" in "".join(texts)) == is_steep
    widths = [float(one.get("width")) for one in drawn if one.get("rx") == "2"]
    assert widths == sorted(widths)


def test_the_proxy_holds_back_and_keeps_the_order(tmp_path: Path) -> None:
    from benchmarks import processes, proxy

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    port = processes.free_port()
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        command = proxy.command({port: server.getsockname()[:2]})
        log = tmp_path / "log"
        process = stack.enter_context(processes.started(command, {}, log, **pipes))
        wait_until(lambda: processes.answers(port), "the proxy", log.read_text)
        proxy.Proxy(process).round_trip(200)
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        started = time.monotonic()
        for part in (b"a", b"b", b"c"):
            client.sendall(part)
        found = b""
        while found != b"abc":  # the first connection was the question above
            other = stack.enter_context(server.accept()[0])
            other.settimeout(PATIENCE)
            while len(found) < 3 and (data := other.recv(3)):
                found += data
        other.sendall(b"answer")
        assert client.recv(6) == b"answer"
        assert time.monotonic() - started >= 0.2


@pytest.mark.acceptance
def test_calls_pass_through_our_emulator_and_site(tmp_path: Path) -> None:
    from benchmarks.end_to_end import prepare_database, ready
    from benchmarks.processes import bench

    with bench("cloudtask_flows", BENCH_DATABASE="sqlite") as place:
        prepare_database(**place.environ)
        caller = ready(place)
        for way in ("singly", "committed", "chains"):
            assert caller("through", way=way, count=5)["rate"] > 0
        assert caller("through", way="groups", count=1)["rate"] > 0
        assert len(caller("latency", most=3, seconds=60)) == 3
        for together in (False, True):  # it counts the changes
            assert caller("walk", rows=1200, together=together) > 0
