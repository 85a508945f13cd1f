"""A newcomer finds the answers to ten questions in two clicks from README or the index.

`python -m tests.docs.test_questions` prints the page and the line of each answer.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

import pytest

from tests.docs.blocks import ROOT
from tests.docs.test_links import LINK, MAIN

# The answer is a sentence that the page must have.
ANSWERS = {
    "How do I test a retry?": (
        "docs/howto/testing.md",
        'report = run_queued(errors="retry")',
    ),
    "What happens if Cloud Tasks is unavailable at the commit?": (
        "docs/howto/outbox.md",
        "Transactions still commit, and rows collect in the outbox.",
    ),
    "What happens if a row kills my worker?": (
        "docs/howto/iterate.md",
        "If the process is killed a third time, that row has failed and is not tried "
        "again.",
    ),
    "How do I rename a task?": ("docs/howto/rename.md", "Rename in two deploys:"),
    "How do I let only Cloud Tasks call my handler?": (
        "docs/howto/security.md",
        "A delivery must prove that it comes from the project's own queues.",
    ),
    "How do I cancel a call?": (
        "docs/howto/cancel.md",
        "Its `cancel()` keeps the call from beginning, if that is still possible:",
    ),
    "How do I see what waits?": (
        "docs/howto/monitor.md",
        "`manage.py cloudtask_status` answers the other questions at a glance",
    ),
    "How do I run it in development?": (
        "docs/howto/develop.md",
        "`manage.py runserver` then starts a local Cloud Tasks, and tasks run on the "
        "port of `runserver`.",
    ),
    "How many workers do I need?": (
        "docs/howto/sizing.md",
        "You start no workers.",
    ),
    "What does it cost?": (
        "docs/howto/sizing.md",
        "A small call that succeeds at once is two.",
    ),
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def line_of(page: str, sentence: str) -> int | None:
    """The line on which a sentence begins; it may go on over several lines."""
    pattern = r"\s+".join(map(re.escape, sentence.split()))
    found = re.search(pattern, text_of(page))
    return text_of(page).count("\n", 0, found.start()) + 1 if found else None


def linked(page: str) -> Iterator[str]:
    """The pages to which a page leads."""
    for link in LINK.findall(text_of(page)):
        path = link.partition("#")[0]
        if path.startswith(MAIN):
            yield path.removeprefix(MAIN)
        elif path.endswith(".md") and "://" not in path:
            yield posixpath.normpath(posixpath.join(posixpath.dirname(page), path))


def within_two_clicks(start: str) -> set[str]:
    first = set(linked(start))
    pages = {page for page in first if page.endswith(".md")}
    return first | {page for one in pages for page in linked(one)}


@pytest.mark.parametrize("question", ANSWERS)
def test_the_page_of_questions_leads_to_the_answer(question: str) -> None:
    page, sentence = ANSWERS[question]
    rows = dict(re.findall(r"^\| (.+?\?) \| (.+) \|$", text_of(QUESTIONS), re.M))
    assert f"({page.removeprefix('docs/')}" in rows[question]
    assert line_of(page, sentence), f"{page} does not say: {sentence}"


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
def test_the_answers_are_two_clicks_away(start: str) -> None:
    assert {page for page, _ in ANSWERS.values()} <= within_two_clicks(start)


QUESTIONS = "docs/questions.md"

if __name__ == "__main__":
    for question, (page, sentence) in ANSWERS.items():
        print(f"{question} {page}:{line_of(page, sentence)}")
