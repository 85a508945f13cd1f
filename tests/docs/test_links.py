"""Links of the pages lead somewhere, and those of README work on PyPI too."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from tests.docs.blocks import ROOT, pages

MAIN = "https://github.com/cloudtask/cloudtask/blob/main/"
LINK = re.compile(r"\]\(([^)\s]+)\)")
FLAGS = re.MULTILINE | re.DOTALL


def links(page: str) -> list[str]:
    return LINK.findall((ROOT / page).read_text(encoding="utf-8"))


def anchors(page: str) -> set[str]:
    """The anchors of a page: a link can have one of them after its #."""
    text = (ROOT / page).read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in titles}


def test_readme_has_no_relative_links() -> None:
    assert [link for link in links("README.md") if "://" not in link] == []


@pytest.mark.parametrize("page", [*pages(), "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_to_pages_and_their_titles_lead_somewhere(page: str) -> None:
    for link in links(page):
        if "://" in link and not link.startswith(MAIN):
            continue
        path, _, anchor = link.removeprefix(MAIN).partition("#")
        base = ROOT if link.startswith(MAIN) else (ROOT / page).parent
        found = (base / path).resolve() if path else ROOT / page
        assert found.exists(), link
        if anchor:
            assert anchor in anchors(str(found.relative_to(ROOT))), link


def test_every_page_is_in_the_navigation() -> None:
    """In a toctree at the end of docs/index.md, where a name may be a pattern."""
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", text, FLAGS)
    patterns = [line for tree in trees for line in tree.split()]
    for page in pages()[1:]:
        name = page.removeprefix("docs/").removesuffix(".md")
        found = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        assert found or name == "index", f"No toctree of docs/index.md lists {name}."


def test_each_page_can_be_reached_from_the_first_one_by_links() -> None:
    """GitHub shows no navigation."""
    linked = {link.partition("#")[0] for link in links("docs/index.md")}
    others = [page.removeprefix("docs/") for page in pages()[1:]]
    unlisted = {"index.md", "changes.md"}  # README links to the changes themselves
    assert [one for one in others if one not in linked | unlisted] == []


def test_readme_is_short() -> None:
    """600 words at most, beside code and addresses."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```|^    .*?$", "", text, flags=FLAGS)
    text = re.sub(r"!\[[^]]*\]|\]\([^)]*\)", "", text)
    assert 300 < len(re.findall(r"\w[^\s|]*", text)) <= 600
