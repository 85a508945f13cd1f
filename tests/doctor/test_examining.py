"""Probes are asked at once, each has its own time, and none stops another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client, override_settings

from cloudtask.doctor import Grade, examine, summary
from cloudtask.doctor.findings import Finding, Probe, Wish, failed, ok, skipped, warning
from cloudtask.exceptions import EnqueueUnavailable
from tests.dashboard.conftest import visitor
from tests.doctor.test_faults import examined

__all__ = ["visitor"]


def probe(name: str, look: Callable[[Wish], Iterator[Finding]], **values: Any) -> Probe:
    return Probe(id=name, about=f"the {name}", look=look, **values)


def test_a_probe_that_hangs_is_told_and_the_others_are_heard() -> None:
    never = threading.Event()

    def hangs(wish: Wish) -> Iterator[Finding]:
        never.wait()
        yield ok("too late")

    slow = probe("slow", hangs, seconds=0.05)
    fine = probe("fine", lambda wish: iter([ok("well")]), seconds=60.0)
    try:
        late, heard = examine(probes=(slow, fine), at_once=True)
    finally:
        never.set()

    assert late.grade is Grade.FAILED
    assert "no answer within 0.05 s about the slow" in late.findings[0].what
    assert "cloudtask_doctor --only slow" in late.findings[0].cure
    assert heard.findings == (ok("well"),)


def test_an_error_is_a_finding_without_control_characters() -> None:
    def breaks(wish: Wish) -> Iterator[Finding]:
        yield ok("before")
        raise ValueError("a\x1b[2J")

    [one] = examine(probes=(probe("broken", breaks),))

    assert one.grade is Grade.FAILED
    assert [f.grade for f in one.findings] == [Grade.OK, Grade.FAILED]
    assert "ValueError: a\\x1b[2J" in one.findings[1].what


def test_a_store_that_is_lost_leads_to_its_own_probe() -> None:
    def lost(wish: Wish) -> Iterator[Finding]:
        raise EnqueueUnavailable("no route")
        yield

    [one] = examine(probes=(probe("relay", lost),))

    assert one.findings[0].what == "no route"
    assert "cloudtask_doctor --only store" in one.findings[0].cure


def test_the_worst_finding_is_the_grade() -> None:
    found = [ok("a"), warning("b", "c"), skipped("d")]

    [one] = examine(probes=(probe("mixed", lambda wish: iter(found)),))

    assert one.grade is Grade.WARNING


@pytest.mark.django_db(databases="__all__")
def test_the_exit_code_tells_whether_there_are_faults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call_command("cloudtask_doctor", "--only", "tables", "--fail-on=warning")
    assert capsys.readouterr().out.endswith("No fault was found.\n")
    with (
        override_settings(CLOUDTASK={"LOCATION": 3}),
        pytest.raises(SystemExit) as raised,
    ):
        call_command("cloudtask_doctor", "--only", "settings")
    assert raised.value.code == 3
    assert "1 fault" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(CommandError, match="invalid choice: 'ok'"):
        call_command("cloudtask_doctor", "--fail-on", "ok")
    with pytest.raises(CommandError, match="invalid choice: 'nose'"):
        call_command("cloudtask_doctor", "--only", "nose")
    with pytest.raises(CommandError, match="begin with https"):
        call_command("cloudtask_doctor", "--url", "file:///etc/passwd")


@pytest.mark.django_db(databases="__all__")
def test_warnings_fail_the_command_only_if_they_shall(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call_command("cloudtask_doctor", "--only", "prune")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "No fault was found, but 1 warning."
    with pytest.raises(SystemExit) as raised:
        call_command("cloudtask_doctor", "--only", "prune", "--fail-on=warning")
    assert raised.value.code == 3


@pytest.mark.parametrize(
    ("findings", "told"),
    [
        ([ok("a"), skipped("b")], "No fault was found."),
        ([warning("a", ""), warning("b", "")], "No fault was found, but 2 warnings."),
        ([failed("a", ""), failed("b", "")], "2 faults found."),
        ([failed("a", ""), warning("b", "")], "1 fault and 1 warning found."),
    ],
)
def test_the_summary_counts_faults_and_warnings(
    findings: list[Finding], told: str
) -> None:
    assert summary(examine(probes=(probe("x", lambda w: iter(findings)),))) == told


@pytest.mark.django_db(databases="__all__")
def test_each_probe_has_an_answer_in_this_project() -> None:
    found = examined()

    assert {one["grade"] for one in found} <= {"ok", "skipped", "warning"}, found
    assert len({one["probe"] for one in found}) == 16


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_outside_of_a_transaction_each_probe_has_a_thread_and_a_connection() -> None:
    found = examined("--only", "tables", "--only", "clock", "--only", "store")

    assert {one["grade"] for one in found} == {"ok"}


@pytest.mark.django_db(databases="__all__")
def test_the_page_looks_when_asked(
    visitor: Callable[..., Client], settings: Any
) -> None:
    settings.ROOT_URLCONF = "tests.dashboard.urls"
    client = visitor("run_doctor")

    before = client.get("/admin/cloudtask/doctor/").content.decode()
    after = client.post("/admin/cloudtask/doctor/").content.decode()

    assert "Look for faults" in before
    assert "ct-table" not in before
    assert "No relay has ever run." in after
    assert "<code>manage.py cloudtask_relay --loop 5</code>" in after


@pytest.mark.django_db(databases="__all__")
def test_the_page_needs_its_right(
    visitor: Callable[..., Client], settings: Any
) -> None:
    settings.ROOT_URLCONF = "tests.dashboard.urls"

    assert visitor("view_task").post("/tasks/doctor/").status_code == 403
