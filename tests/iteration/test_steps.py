"""The names under which the steps of a run travel."""

from __future__ import annotations

from cloudtask import registry
from cloudtask.iteration.steps import STEPS


def test_the_steps_have_names_that_no_file_decides():
    assert {
        "cloudtask.plan",
        "cloudtask.walk",
        "cloudtask.finalize",
        "cloudtask.stop",
        "cloudtask.reopen",
    } == STEPS


def test_each_step_is_found_by_its_name():
    assert {registry.find(name).path for name in STEPS} == STEPS
