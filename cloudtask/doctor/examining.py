"""Runs the probes: at once, each with its own time limit. None stops another."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections

from cloudtask import conf
from cloudtask.discretion import printable
from cloudtask.doctor import delivery, project, service, upkeep
from cloudtask.doctor.findings import Finding, Grade, Probe, Wish, failed, skipped
from cloudtask.exceptions import (
    CloudTaskError,
    ConfigurationError,
    EnqueueUnavailable,
)

PROBES = (*project.PROBES, *service.PROBES, *upkeep.PROBES, *delivery.PROBES)
SETTINGS = (
    "Run `manage.py cloudtask_doctor --only settings`, and correct what it names."
)
STORE = "Run `manage.py cloudtask_doctor --only store`, and do what it says."


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The findings of one probe, at least one, and the time that it took."""

    probe: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def grade(self) -> Grade:
        """That of the worst finding."""
        return max((one.grade for one in self.findings), key=list(Grade).index)


def examine(
    only: Collection[str] = (),
    *,
    wish: Wish | None = None,
    probes: Sequence[Probe] = PROBES,
    at_once: bool | None = None,
) -> tuple[Examined, ...]:
    """Ask all probes, or those with the ids `only`, in their order.

    They are asked `at_once`, each in a thread with a time limit, unless only this
    thread sees its databases as they are.
    """
    asked = [probe for probe in probes if not only or probe.id in only]
    wish = wish or Wish()
    if at_once is None:
        at_once = not any(map(_is_here_only, connections.all(initialized_only=True)))
    if not at_once:
        return tuple(_asked(probe, wish) for probe in asked)
    return tuple(one.result() for one in [_Asking(probe, wish) for probe in asked])


def _is_here_only(connection: Any) -> bool:
    """Whether other threads don't see what this one does: in an open transaction, whose
    locks they could also wait for, and in a database in memory."""
    is_in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
    return bool(connection.in_atomic_block or is_in_memory)


class _Asking(threading.Thread):
    """A thread that asks one probe. It keeps no process from ending."""

    def __init__(self, probe: Probe, wish: Wish) -> None:
        super().__init__(name=f"doctor-{probe.id}", daemon=True)
        self.probe, self.wish = probe, wish
        self.examined: Examined | None = None
        self.due = time.monotonic() + probe.seconds
        self.start()

    def run(self) -> None:
        try:
            self.examined = _asked(self.probe, self.wish)
        finally:
            connections.close_all()

    def result(self) -> Examined:
        self.join(max(0.0, self.due - time.monotonic()))
        return self.examined or _silent(self.probe)


def _silent(probe: Probe) -> Examined:
    finding = failed(
        f"There was no answer within {probe.seconds:g} s about {probe.about}.",
        "Look whether the network lets this process through to it, and repeat: "
        f"`manage.py cloudtask_doctor --only {probe.id}`.",
    )
    return Examined(probe=probe.id, findings=(finding,), seconds=probe.seconds)


def _asked(probe: Probe, wish: Wish) -> Examined:
    started = time.monotonic()
    findings: list[Finding] = []
    try:
        if probe.id == "settings" or _are_settings_readable():
            findings += probe.look(wish)
        else:
            findings.append(skipped("The settings can't be read."))
    except EnqueueUnavailable as error:
        findings.append(failed(str(error), STORE))
    except CloudTaskError as error:
        findings.append(failed(str(error), SETTINGS))
    except Exception as error:  # noqa: BLE001  whatever it is, the others go on
        findings.append(_broken(probe, error))
    return Examined(
        probe=probe.id,
        findings=tuple(_printable(one) for one in findings),
        seconds=time.monotonic() - started,
    )


def _are_settings_readable() -> bool:
    try:
        conf.settings()
    except ConfigurationError:
        return False
    return True


def _broken(probe: Probe, error: Exception) -> Finding:
    text = f"{type(error).__name__}: {error}"
    return failed(
        f"The question about {probe.about} failed: {text}",
        "Look whether the server that it names is there, and repeat: "
        f"`manage.py cloudtask_doctor --only {probe.id}`.",
    )


def _printable(one: Finding) -> Finding:
    return Finding(one.grade, printable(one.what), one.cure)


def summary(examined: Iterable[Examined]) -> str:
    """The number of faults and of warnings, in a sentence."""
    findings = [finding for one in examined for finding in one.findings]
    faults = sum(one.is_fault for one in findings)
    warnings = sum(one.is_warning for one in findings)
    told = [
        f"{number} {word}{'' if number == 1 else 's'}"
        for number, word in ((faults, "fault"), (warnings, "warning"))
        if number
    ]
    if not faults and told:
        return f"No fault was found, but {told[0]}."
    return f"{' and '.join(told)} found." if told else "No fault was found."
