"""The doctor: looks for faults of a deployment, and names what mends each of them."""

from __future__ import annotations

from cloudtask.doctor.examining import PROBES, Examined, examine, summary
from cloudtask.doctor.findings import Finding, Grade

__all__ = ["PROBES", "Examined", "Finding", "Grade", "examine", "summary"]
