"""Chains and groups of calls: what they are made of, and how they are enqueued."""

from __future__ import annotations

from cloudtask.chains.failure import Failure
from cloudtask.workflows.signatures import (
    Full,
    Immutable,
    Partial,
    Signature,
    Start,
    Step,
)
from cloudtask.workflows.trees import Chain, Group, chain, group

__all__ = [
    "Chain",
    "Failure",
    "Full",
    "Group",
    "Immutable",
    "Partial",
    "Signature",
    "Start",
    "Step",
    "chain",
    "group",
]
