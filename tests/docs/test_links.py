"""Links of the pages lead somewhere, and those of README work on PyPI too."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import ROOT, pages

MAIN = "https://github.com/cloudtask/cloudtask/blob/main/"
LINK = re.compile(r"\]\(([^)\s]+)\)")


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
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    found = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(f"docs/{page}" for page in found) == sorted(pages()[1:])
