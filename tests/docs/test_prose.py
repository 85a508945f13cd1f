"""The pages are plain English: short sentences, and none of some unclear words.

CONTRIBUTING has the rules. These are the ones that a machine can check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.docs.blocks import ROOT, pages

MOST = 26  # words in a sentence
# Words of life for things, words with a plainer twin, and British spelling.
BANNED = re.compile(
    r"\b(whoever|whatever|somebody|nobody|blamed?|dies|died|strangers?|told|e\.g\.|i\.e\.|"
    r"simply|easily|merely|please|surely|as good|are away|is away|misspelt|behaviours?|"
    r"honours?|undone|in order to|colours?|favou?rites?|centres?|licences?|"
    r"(?:recogn|organ|final|initial|serial|normal|synchron|optim|minim|maxim)is(?:e|ed|es|ing)|"
    r"analys(?:e|ed|es|ing))\b",
    re.IGNORECASE,
)
# A clause as the subject: "Who has the key can ..."; a question may begin so.
CLAUSE = re.compile(
    r"^(?:\* )?(?:Who|What) (?:is|are|has|have|was|were|does|can)\b[^?]*$"
)
CHANGES = [str(one.relative_to(ROOT)) for one in sorted(ROOT.glob("changes/*.md"))]
OTHERS = ["CHANGELOG.md", "CONTRIBUTING.md", "RELEASING.md", "example/README.md"]
PAGES = [*pages(), *OTHERS, *CHANGES]


def prose(text: str) -> Iterator[str]:
    """Paragraphs, items and cells of a page, each in one line, without code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\n?(    .*\n)+", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "x", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[*|#:-]|\d+\.) ?)", text):
        for part in block.split("|") if block.startswith("|") else [block]:
            yield " ".join(part.split())


def sentences(text: str) -> Iterator[str]:
    for part in prose(text):
        yield from re.split(r"(?<=[^.][.!?])[)\"*]*\s+", part)


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [one for one in sentences(text) if len(one.split()) > MOST] == []


@pytest.mark.parametrize("page", PAGES)
def test_unclear_words_are_not_used(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [one for one in sentences(text) if BANNED.search(one)] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_clause_is_a_subject(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^#+ .*$", "", text, flags=re.MULTILINE)  # a title may be a clause
    assert [one for one in sentences(text) if CLAUSE.search(one)] == []


def test_a_long_sentence_and_a_banned_word_are_found() -> None:
    long = "It runs " + "and runs " * 13 + "on."
    found = [*sentences(f"# Title\n\nA row dies. {long}\n\n* one\n* two\n")]
    assert [one for one in found if len(one.split()) > MOST] == [long]
    assert [one for one in found if BANNED.search(one)] == ["A row dies."]
