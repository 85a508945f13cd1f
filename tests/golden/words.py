"""Names that stand as literals in the code: variables, loggers, checks, headers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cloudtask

ROOT = Path(cloudtask.__file__).parent
VARIABLES = re.compile(
    r"(CLOUD_TASKS|CLOUDTASK|TASKS|DATASTORE|GOOGLE|GAE|K|CLOUD_RUN)_[A-Z_]+"
)
CHECKS = re.compile(r"cloudtask\.[EWI]\d+")
HEADERS = re.compile(r"X-\w+-\w[\w-]*|X-CloudScheduler|Authorization")
# Settings of djangae and CLOUDTASK's own, which are no environment variables.
NOT_VARIABLES = re.compile(r"CLOUD_TASKS_(PROJECT_ID|LOCATION|QUEUES)")


@cache
def _trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))]


def _texts() -> Iterator[str]:
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _literals(pattern: re.Pattern[str]) -> list[str]:
    return list(filter(pattern.fullmatch, _texts()))


def variables() -> list[str]:
    found = _literals(VARIABLES)
    return [name for name in found if not NOT_VARIABLES.fullmatch(name)]


def checks() -> list[str]:
    return _literals(CHECKS)


def headers() -> list[str]:
    return _literals(HEADERS)


def loggers() -> list[str]:
    """The argument of each getLogger(). It must be a literal: `__name__` would follow
    the file."""
    return [
        ast.unparse(node.args[0]).strip("'\"")
        for tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("getLogger")
    ]
