"""The legs of the tests: which Python, Django and database they run on.

`make test` runs the leg `quick` in the environment of development; `make test-rest`
runs the others, which are paired and not multiplied. Each leg writes its results to
build/tests. Run as a script, this file tells what was tested and what was not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "build" / "tests"
RUNNING = "{}.{}".format(*sys.version_info)
# Half of the time tests wait, for servers and processes of theirs.
PROCESSES = min(2 * (os.cpu_count() or 1), 8)
PARALLEL = (f"--numprocesses={PROCESSES}", "--dist=loadgroup")
# Half as long again: where nobody waits.
COVERAGE = ("--cov", "--cov-report=html:build/coverage") if "CI" in os.environ else ()
# Without a test that failed, something else is wrong: then nothing is collected.
AGAIN = ("--last-failed", "--last-failed-no-failures=none")
# These use no database of the run: testing them on SQLite is enough.
SERVERLESS = tuple(
    f"--ignore=tests/{path}"
    for path in ("acceptance", "emulator", "support", "testing", "tutorial", "typing")
)
# What Datastore does depends on neither the database nor Django's version, and its
# emulators are slow: these tests have a leg of their own.
NO_DATASTORE = ("-m", "not datastore and not tutorial")
NO_MATRICES = ("-m", "not exhaustive and not datastore and not tutorial")
# What another version changes shows in a few cases of each test.
FEW = ("--few=2",)
SIX = ("--few=6",)  # a second server: PostgreSQL has all cases of the sample
ON_DATABASE = ("-m", "database and not datastore")
NO_MATRICES_ON_DATABASE = ("-m", "database and not exhaustive and not datastore")
# The faults of an iteration take hours there.
ONLY_DATASTORE = ("-m", "datastore", "--ignore=tests/iteration/test_faults.py")
# They install the wheel from PyPI, and ask for the help of gcloud.
ONLY_TUTORIAL = ("-m", "tutorial")
# What depends on the packages whose lowest versions the leg `lowest` installs.
CLIENTS = (
    *("tests/transports", "tests/testing", "tests/stores", "tests/test_limits.py"),
    "tests/emulator/test_wire.py",
    "--pythonwarnings=ignore::FutureWarning",  # old clients warn of this Python's end
)

nox.options.reuse_venv = "yes"
nox.options.sessions = ["quick"]


@dataclass(frozen=True)
class Leg:
    """One run of pytest."""

    name: str
    database: str
    python: str
    django: str
    arguments: tuple[str, ...]
    what: str = ""
    is_lowest: bool = False

    @property
    def title(self) -> str:
        title = f"Python {self.python}, Django {self.django}, {NAMES[self.database]}"
        return f"{title}, {self.what}" if self.what else title

    @property
    def results(self) -> Path:
        return RESULTS / f"{self.name}.xml"

    @property
    def is_here(self) -> bool:
        """Whether the environment of development is the one that the leg wants."""
        here = (RUNNING, _installed_django())
        return (self.python, self.django) == here and not self.is_lowest

    @property
    def pins(self) -> list[str]:
        """Versions that pip installs beside those that pyproject.toml asks for."""
        return _lowest() if self.is_lowest else [f"django=={self.django}.*"]


NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "mysql": "MariaDB"}


def _installed_django() -> str:
    return ".".join(metadata.version("django").split(".")[:2])


def _lowest() -> list[str]:
    """The lowest version of each dependency that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["emulator"]
    return [f"{one.replace('>=', '==')}.*" for one in wanted]


LEGS = {
    leg.name: leg
    for leg in (
        Leg(
            *("quick", "sqlite", RUNNING, _installed_django()),
            (*COVERAGE, *NO_DATASTORE),
        ),
        Leg("datastore", "sqlite", "3.11", "5.2", ONLY_DATASTORE, "Datastore"),
        Leg(
            *("datastore-exhaustive", "sqlite", "3.11", "5.2"),
            ("--exhaustive", "-m", "datastore"),
            "whole matrices on Datastore",
        ),
        Leg(
            *("exhaustive", "sqlite", "3.11", "5.2"),
            ("--exhaustive", *NO_DATASTORE),
            "whole matrices",
        ),
        Leg("postgres", "postgres", "3.11", "5.2", (*SERVERLESS, *ON_DATABASE)),
        Leg("mariadb", "mysql", "3.11", "5.2", (*SIX, *SERVERLESS, *ON_DATABASE)),
        Leg(
            *("django60", "postgres", "3.12", "6.0"),
            (*FEW, *SERVERLESS, *NO_MATRICES_ON_DATABASE),
        ),
        Leg(
            *("lowest", "sqlite", "3.11", "5.2", (*FEW, *CLIENTS, *NO_MATRICES)),
            "lowest versions of the dependencies",
            is_lowest=True,
        ),
        Leg("django61", "sqlite", "3.13", "6.1", (*FEW, *SERVERLESS, *NO_MATRICES)),
        Leg("tutorial", "sqlite", "3.12", "6.0", ONLY_TUTORIAL, "the tutorial"),
    )
}


def _put_real_pythons_first() -> None:
    """A python3.12 on the path may be a stand-in of pyenv, which runs only when that
    version is chosen; the real ones lie in its folder of versions."""
    pyenvs = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")]
    if shim := shutil.which("python3"):
        pyenvs.append(Path(shim).parent.parent)
    folders = [
        str(python.parent)
        for version in sorted({leg.python for leg in LEGS.values()})
        for pyenv in pyenvs
        for python in sorted(pyenv.glob(f"versions/{version}*/bin/python{version}"))
    ]
    os.environ["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])


_put_real_pythons_first()


def _add(leg: Leg) -> None:
    def run(session: nox.Session) -> None:
        leg.results.unlink(missing_ok=True)
        python = sys.executable
        if not leg.is_here:
            session.install("-q", "-e", ".[dev]", *leg.pins)
            python = "python"
        if problem := why_unreachable(leg.database):
            # Where tests are compulsory, a test that did not run has failed.
            (session.error if "CI" in os.environ else session.skip)(problem)
        env = {
            "CLOUDTASK_TEST_DATABASE": leg.database,
            # Other runs may use the same server at the same time.
            "CLOUDTASK_TEST_SUFFIX": f"_{os.getpid()}",
        }
        pytest = (python, "-m", "pytest", "-q", f"-ocache_dir=build/cache/{leg.name}")
        first = (*PARALLEL, *leg.arguments, f"--junit-xml={leg.results}")
        try:
            session.run(*pytest, *first, *session.posargs, env=env, external=True)
        except CommandFailed:
            if "CI" not in os.environ:
                raise
            # One unsteady test must not stop a change. The log above has its name.
            session.warn("What failed runs once more, one test at a time.")
            again = [one for one in leg.arguments if one not in COVERAGE]
            session.run(*pytest, *again, *AGAIN, env=env, external=True)

    run.__doc__ = leg.title
    nox.session(name=leg.name, python=False if leg.is_here else leg.python)(run)


for _leg in LEGS.values():
    _add(_leg)


def why_unreachable(database: str) -> str | None:
    """Why the server of a database can't be used; None when it can."""
    command = [sys.executable, "-m", "tests.databases", database]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip() or None


def summary() -> str:
    """What was tested and what was not."""
    tested, missing, total = [], [], Counter[str]()
    for leg in LEGS.values():
        if leg.results.exists():
            counts, seconds = counts_of(leg.results)
            total += counts
            tested.append(f"  {leg.title}: {_text(counts)} in {seconds:.0f} s")
        else:
            missing.append(f"  {leg.title}: {_reason(leg)}")
    lines = ["Tested:", *tested]
    if missing:
        lines += ["Not tested:", *missing]
    return "\n".join([*lines, f"{_text(total)} in all"])


def counts_of(results: Path) -> tuple[Counter[str], float]:
    """The numbers of tests by outcome, and the seconds that the leg took."""
    suite = next(ElementTree.parse(results).iter("testsuite"))
    counts = Counter(
        failed=int(suite.get("failures", 0)),
        errors=int(suite.get("errors", 0)),
        skipped=int(suite.get("skipped", 0)),
    )
    counts["passed"] = int(suite.get("tests", 0)) - counts.total()
    return counts, float(suite.get("time", 0))


def _text(counts: Counter[str]) -> str:
    order = ("failed", "errors", "passed", "skipped")
    found = [f"{counts[what]} {what}" for what in order if counts[what]]
    return ", ".join(found) or "no tests"


def _reason(leg: Leg) -> str:
    if not (leg.is_here or shutil.which(f"python{leg.python}")):
        return f"python{leg.python} was not found"
    return why_unreachable(leg.database) or "`make test-rest` runs it"


if __name__ == "__main__":
    print(f"\n{summary()}")
