"""Each Python example of the pages runs, in the order of its page, or says why not.

The examples of a page go on from one another. `tests/docs/worlds.py` has what they take
from a project. The tutorial is typed into an empty folder by tests/tutorial.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
from sybil import Document, Sybil
from sybil.example import Example
from sybil.parsers.markdown import PythonCodeBlockParser

from cloudtask import registry
from cloudtask.codec import packing
from tests.docs import models, shop
from tests.docs.blocks import ROOT, pages
from tests.docs.worlds import WORLDS, World

PAGES = [page for page in pages() if not page.startswith("docs/tutorial/")]
# The beginning of an example that does not run here, and the reason.
NOT_RUN = {
    ("docs/howto/datastore.md", "INSTALLED_APPS"): "tests/acceptance has such a site",
    ("docs/howto/emulator.md", "import pytest"): "tests/docs/test_emulator_page.py",
    ("docs/howto/emulator.md", "id_token.verify"): "tests/emulator verify such tokens",
    ("docs/howto/emulator-other-languages.md", "import os"): "needs a running emulator",
    ("docs/howto/iterate.md", "run.progress()"): "verbs that exclude one another",
    ("docs/howto/iterate.md", "iteration.get(id)"): "resumes a run that has failed",
    ("docs/reference/options.md", "class Book"): "tests/testapp has such models",
    ("docs/howto/context.md", "from contextlib import contextmanager\n\nfrom django"): (
        "it is about PostgreSQL"
    ),
}
declared = importlib.import_module("cloudtask.schedules.declared")
SYBIL = Sybil(parsers=[PythonCodeBlockParser()])


def document(page: str) -> Document:
    return SYBIL.parse(ROOT / page)


def examples(page: str) -> list[Example]:
    return list(document(page).examples())


def reason(page: str, example: Example) -> str | None:
    """Why an example does not run; None if it does."""
    for (where, start), why in NOT_RUN.items():
        if where == page and str(example.parsed).strip().startswith(start):
            return why
    return None


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of a shop. What the examples register is forgotten afterward."""
    package, tables = ModuleType("shop"), ModuleType("shop.models")
    tasks = ModuleType("shop.tasks")
    vars(tables).update(Order=models.Order, Book=models.Book)
    vars(tables).update(Author=models.Author, Tally=models.Tally)
    vars(tasks).update(charge=shop.charge, send_reports=shop.send_reports)
    others = map(ModuleType, ("shop.tenants", "shop.jobs", "shop.words", "page_urls"))
    for module in (package, tables, tasks, *others):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    if importlib.util.find_spec("django.tasks") is None:
        backport = importlib.import_module("django_tasks")
        monkeypatch.setitem(sys.modules, "django.tasks", backport)
    for module, name in REGISTRIES:
        monkeypatch.setattr(
            module, name, type(getattr(module, name))(getattr(module, name))
        )


REGISTRIES = [
    (registry, "_known"),
    (registry, "_specs"),
    (registry, "_findable"),
    (declared, "_declared"),
    (packing, "_registered"),
]


@pytest.mark.usefixtures("project")
@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)])
def test_the_examples_of_a_page_run(
    page: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    module = ModuleType("page_" + "".join(c if c.isalnum() else "_" for c in page))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names, surroundings = vars(module), WORLDS.get(page, World())
    # A page may import what an earlier example of it has written to this module.
    vars(sys.modules["shop.tasks"])["__getattr__"] = lambda name: getattr(module, name)
    settings = request.getfixturevalue("settings")
    settings.CLOUDTASK = {"TRUSTED_MODULES": [module.__name__]}
    exec(surroundings.before, names)
    shown = document(page)
    shown.namespace = names
    for example in shown.examples():
        if reason(page, example) is None:
            # As a module that is loaded again: it may declare its tasks anew.
            module.__spec__ = ModuleSpec(module.__name__, None)
            with _advice():
                example.evaluate()
                _heed_settings(names, settings)
                _run_tests(names, request)
    exec(surroundings.after, names)


@contextmanager
def _advice() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note("What an example takes from a project: tests/docs/worlds.py")
        raise


def _heed_settings(names: dict[str, Any], settings: Any) -> None:
    """Let settings that an example shows hold for the rest of the page."""
    for name in ("TASKS", "ROOT_URLCONF"):
        if name in names:
            setattr(settings, name, names.pop(name))


def _run_tests(names: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Run the tests that an example has defined, with their fixtures and parameters."""
    for name in [name for name in names if name.startswith("test_")]:
        test = names.pop(name)
        for given in _parameters(test):
            wanted = inspect.signature(test).parameters.keys() - given.keys()
            test(**given, **{one: _fixture(one, names, request) for one in wanted})
    for name in [name for name in names if _is_test_case(names[name])]:
        case, result = names.pop(name), unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
        assert result.testsRun
        assert result.wasSuccessful(), [*result.errors, *result.failures]


def _parameters(test: Any) -> Iterator[dict[str, Any]]:
    marks = [
        one for one in getattr(test, "pytestmark", []) if one.name == "parametrize"
    ]
    if not marks:
        yield {}
    for mark in marks:
        name, values = mark.args
        yield from ({name: value} for value in values)


def _fixture(name: str, names: dict[str, Any], request: pytest.FixtureRequest) -> Any:
    if name in names:
        return names[name]
    if f"make_{name}" in names:
        return names[f"make_{name}"]()
    return request.getfixturevalue(name)


def _is_test_case(value: Any) -> bool:
    is_class = isinstance(value, type) and issubclass(value, unittest.TestCase)
    return is_class and value.__module__.startswith("page_")


def test_what_does_not_run_is_still_there() -> None:
    for page, start in NOT_RUN:
        found = [one for one in examples(page) if reason(page, one)]
        assert found, f"{page} has no example {start!r} any more."
