"""Commands that the pages show exist, with the options that they are given."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from tests.docs.blocks import ROOT, pages

PAGES = [*pages(), "example/README.md"]
# In a block of code, or between backticks, which may go on in the next line.
TYPED = re.compile(r"manage\.py ([^`\n\"|)]*(?:\\\n[^`\n]*)*)")
FENCE = re.compile(r"^ *```(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# Words that stand for a value of the reader's.
VALUES = {"[--once]": "--once", "...": ""}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> Iterator[list[str]]:
    for found in TYPED.findall(text_of(page)):
        line = found.replace("\\\n", " ").partition(" #")[0].partition(" >")[0]
        words = shlex.split(line.rstrip(".,:; ")) if line.count("'") % 2 == 0 else []
        if words and re.fullmatch(r"[a-z_]+", words[0]):
            yield words


SHOWN = {" ".join(words): (page, words) for page in PAGES for words in commands(page)}


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_of_the_pages_exists_with_its_options(line: str) -> None:
    page, (name, *arguments) = SHOWN[line]
    apps = get_commands() | dict.fromkeys(PROJECTS, "")
    assert name in apps, f"{page} shows manage.py {name}"
    if name.startswith("cloudtask"):
        parser = load_command_class("cloudtask", name).create_parser("manage.py", name)
        known = set(_options(parser))
        used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert used <= known, f"{page}: {line}"
        verbs = set(_verbs(parser))
        if verbs and arguments and not arguments[0].startswith("-"):
            assert arguments[0] in verbs, f"{page}: {line}"


# Commands of projects that the pages are about.
PROJECTS = {"load_cities"}


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield action


def _verbs(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in _subparsers(parser):
        yield from action.choices or ()


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
    for action in _subparsers(parser):
        for below in dict(action.choices or {}).values():
            yield from _options(below)


@pytest.mark.parametrize("page", PAGES)
def test_data_of_the_pages_can_be_read(page: str) -> None:
    for language, text in FENCE.findall(text_of(page)):
        if language == "json":
            json.loads(text)
        elif language == "yaml":
            assert list(yaml.safe_load_all(text))


# How examples in other languages are tested; a page of any other needs a row here.
LANGUAGES = {
    "python": "tests/docs/test_snippets.py and tests/tutorial run it",
    "console": "tests/tutorial types it, or tests/tutorial/test_gcloud.py asks gcloud",
    "text": "tests/tutorial compares it with what the server prints",
    "json": "read above",
    "yaml": "read above",
    "sh": "tests/acceptance/languages runs it with curl",
    "js": "tests/acceptance/languages runs it with Node",
    "go": "it needs a compiler, which the tests do not install",
    "java": "it needs a compiler, which the tests do not install",
    "ruby": "it needs an interpreter, which the tests do not install",
    "mermaid": "make docs draws it; a test compares it with the states of the code",
    "": "output, or a drawing",
}


def test_each_kind_of_example_is_tested_or_has_a_reason() -> None:
    found = {language for page in PAGES for language, _ in FENCE.findall(text_of(page))}
    assert {one for one in found if not one.startswith("{")} <= LANGUAGES.keys()


def test_many_commands_are_found() -> None:
    assert len(SHOWN) > 40
