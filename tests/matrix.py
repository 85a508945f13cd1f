"""`make test`: the tests on every database and Python that this machine has.

    python -m tests.matrix [--require postgres] [--only sqlite] [-- pytest options]

SQLite always; PostgreSQL and MariaDB or MySQL when they answer (tests/databases.py says
where); Python 3.13 with Django 6.1, in an environment of its own, where that Python is
found. Two runs go on side by side; what one printed is shown when it has ended. The end
says what was tested and what was not; `--require` makes it a failure that something was
not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests import databases

ROOT = Path(__file__).resolve().parent.parent
NEWER_PYTHON = "3.13"
NEWER_DJANGO = "6.1"
NEWER = f"python{NEWER_PYTHON}"
TITLES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "mysql": "MariaDB/MySQL"}
# These never touch the databases of the run: testing them on SQLite is enough.
DATABASE_FREE = ("tests/acceptance", "tests/emulator", "tests/support")
# Not pytest-xdist: it can't run tests whose names differ from process to process, as
# those do that have the address of an object in them. Lanes, since the legs with SQLite
# start servers, and only one of them should at a time.
SERVER_LANE = ("sqlite", NEWER)
COUNTED = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)\b")


@dataclass(frozen=True)
class Leg:
    """One run of pytest: a database, and the Python that runs it."""

    name: str
    database: str
    python: Path
    arguments: tuple[str, ...] = ()


@dataclass
class Outcome:
    """The result of a leg: pytest's exit status and its final counts."""

    leg: Leg
    status: int
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        counted = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        verdict = "ok" if self.status == 0 else f"FAILED (status {self.status})"
        return (
            f"{self.leg.name}: {verdict}: {counted or 'no tests'}, {self.seconds:.0f} s"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parsed(arguments)
    legs, missing = [], {}
    for leg, problem in _planned(options.only):
        if problem is None:
            legs.append(leg)
        else:
            missing[leg] = problem
    outcomes = _run_lanes(legs, options.pytest)
    return _conclude(outcomes, missing, options.require)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix")
    add = parser.add_argument
    add("--require", action="append", default=[], choices=[*TITLES, NEWER])
    add("--only", action="append", default=[], choices=[*TITLES, NEWER])
    add("pytest", nargs="*", help="options for pytest, after --")
    return parser.parse_args(arguments)


def _planned(only: Sequence[str]) -> Iterator[tuple[Leg, str | None]]:
    """Every leg of the matrix, each with the reason if it can't run."""
    for kind, title in TITLES.items():
        if only and kind not in only:
            continue
        free = (
            [f"--ignore={path}" for path in DATABASE_FREE] if kind != "sqlite" else []
        )
        yield Leg(title, kind, Path(sys.executable), tuple(free)), _problem(kind)
    if not only or NEWER in only:
        found = _newer_python()
        title = f"SQLite, Python {NEWER_PYTHON}, Django {NEWER_DJANGO}"
        problem = f"no {NEWER} that runs was found" if found is None else None
        # One of the two emulators of the acceptance tests will do here.
        leg = Leg(title, NEWER, found or Path(NEWER), ("-k", "not gcloud"))
        yield leg, problem


def _problem(kind: str) -> str | None:
    if kind == "sqlite":
        return None
    problem = databases.why_unreachable(kind)
    if problem and os.environ.get(databases.url_variable(kind)):
        sys.exit(f"{databases.url_variable(kind)} is set, but: {problem}")
    return problem


def _newer_python() -> Path | None:
    """A Python of that version that runs: a name on the path may only be a stand-in of
    pyenv, for versions that are installed and not chosen."""
    on_path = shutil.which(NEWER)
    pyenvs = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")]
    if on_path:
        pyenvs.append(Path(on_path).parent.parent)
    candidates = [Path(on_path)] if on_path else []
    for pyenv in pyenvs:
        candidates += sorted(pyenv.glob(f"versions/{NEWER_PYTHON}*/bin/python"))
    return next(filter(_runs, candidates), None)


def _runs(python: Path) -> bool:
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        shown = subprocess.run(
            [python, "-c", version], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return shown.returncode == 0 and shown.stdout.strip() == NEWER_PYTHON


def _run_lanes(legs: Sequence[Leg], extra: Sequence[str]) -> list[Outcome]:
    """Run the legs that start servers beside those that don't."""
    lanes = [
        [leg for leg in legs if (leg.database in SERVER_LANE) is starts_servers]
        for starts_servers in (True, False)
    ]
    with ThreadPoolExecutor(len(lanes)) as pool:
        run = [pool.submit(_run_in_order, lane, extra) for lane in lanes]
        found = [outcome for lane in run for outcome in lane.result()]
    return sorted(found, key=lambda outcome: legs.index(outcome.leg))


def _run_in_order(legs: Sequence[Leg], extra: Sequence[str]) -> list[Outcome]:
    return [_run(leg, extra) for leg in legs]


def _run(leg: Leg, extra: Sequence[str]) -> Outcome:
    _show(f"== {leg.name}: started")
    started = time.monotonic()
    python = leg.python
    if leg.database == NEWER:
        environment = _environment_of(leg.python)
        if environment is None:
            return Outcome(leg, 1, time.monotonic() - started)
        python = environment
    status, printed = _pytest(python, leg, extra)
    _show(f"== {leg.name}:\n{printed}")
    closing = [line for line in printed.splitlines() if COUNTED.search(line)][-1:]
    counts = Counter({what: int(n) for n, what in COUNTED.findall("".join(closing))})
    return Outcome(leg, status, time.monotonic() - started, counts)


_showing = threading.Lock()


def _show(text: str) -> None:
    with _showing:
        print(text, flush=True)


def _pytest(python: Path, leg: Leg, extra: Sequence[str]) -> tuple[int, str]:
    """Run pytest: its exit status, and what it printed."""
    database = "sqlite" if leg.database == NEWER else leg.database
    # A suffix of our own: other runs may use the same server at the same time.
    environ = os.environ | {
        "CLOUDTASK_TEST_DATABASE": database,
        "CLOUDTASK_TEST_SUFFIX": f"_{os.getpid()}",
    }
    ran = subprocess.run(
        [python, "-m", "pytest", "-q", *leg.arguments, *extra],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout


def _environment_of(python: Path) -> Path | None:
    """The Python of `.venv-3.13`, installed anew when pyproject.toml changed."""
    folder = ROOT / f".venv-{NEWER_PYTHON}"
    inside = folder / "bin" / "python"
    stamp = folder / ".installed"
    state = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == state and inside.exists():
        return inside
    install = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    wanted = ["--editable", ".[dev]", f"Django=={NEWER_DJANGO}.*"]
    for command in ([python, "-m", "venv", folder], [*install, *wanted]):
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            return None
    stamp.write_text(state)
    return inside


def _conclude(
    outcomes: Sequence[Outcome], missing: dict[Leg, str], required: Sequence[str]
) -> int:
    print("\nTested:")
    for outcome in outcomes:
        print(f"  {outcome}")
    if missing:
        print("Not tested:")
    for leg, problem in missing.items():
        print(f"  {leg.name}: {problem}")
    lacking = [leg.name for leg in missing if leg.database in required]
    if lacking:
        print(f"Required and not tested: {', '.join(lacking)}")
    total: Counter[str] = sum((o.counts for o in outcomes), Counter())
    failed = total["failed"] + total["error"] + total["errors"]
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return 1 if lacking or any(outcome.status for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
