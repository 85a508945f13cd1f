"""Chains and groups as users write them. mypy and pyright check this file.

mypy does not solve the type that `s()` leaves open (`Partial[Never, R]`). So it can't
compare what is handed on with what the next step takes: see test_pyright.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

from cloudtask import Chain, Failure, Group, Receipt, chain, group, task


@task
def a(x: int) -> str:
    return str(x)


@task
def b(s: str, n: int = 0) -> float:
    return float(s) + n


@task
def c(f: float) -> None: ...


@task
def g0() -> int:
    return 1


@task
def total(rs: list[str]) -> int:
    return len(rs)


@task
def total_of_any(rs: Sequence[object]) -> int:
    return len(rs)


@task
def fetch(url: str, kind: str = "x") -> str:
    return url + kind


@task
def ko(*, x: int) -> str:
    return str(x)


@task
def dflt(x: int = 1) -> str:
    return str(x)


@task
async def slow(x: int) -> str:
    return str(x)


# Accepted.
chain(slow.s(1), b.s())
assert_type(chain(slow.si(1), slow.si(2)), Chain[Any, str])
assert_type(chain(a.s(1), b.s(), c.s()), Chain[Any, None])
assert_type(chain(a.s(1), b.s(3), c.s()).defer(), Receipt[None])
chain(a.s(1), b.s(n=3), g0.si(), a.s())
chain(fetch.s("u"), b.s())
chain(fetch.s("u", "v"), b.s())
chain(a.si(1), b.si("x", 1))
assert_type(group(a.s(i) for i in range(3)), Group[str])
assert_type(group(a.s(i) for i in range(3)).defer(), Receipt[list[str]])
group(a.s(i) for i in range(3)).then(total.s())
group(a.s(i) for i in range(3)).then(total_of_any.s())
group([a.s(1), a.s(2)]).then(g0.si())
group(a.s(1), a.si(2)).then(total.s())
assert_type(group(a.s(i) for i in range(3)).then(total.s()).defer().result() + 1, int)
chain(chain(a.s(1), b.s()), c.s())
chain(g0.s(), a.s())
chain(group(a.s(i) for i in range(3)), total.s(), a.s())
chain(a.s(1), chain(b.s(), c.s()))
chain(dflt.s(), b.s())
chain(dflt.si(), b.s())
chain(a.s(1), b.s(), ko.si(x=3))
chain(a.using(queue="slow").s(1), b.using(countdown=3).s())
chain(a.s(1), b.s(), on_failure=total_of_any.s())
assert_type(group([a.s(1)], partial=True), Group[str | Failure])
group(a.s(1), a.s(2), partial=True).then(total_of_any.s())
group([a.s(1)]).using(queue="bulk", database="other").then(total.s())
assert_type(chain(a.s(1)).using(queue="bulk"), Chain[Any, str])

# Refused.
chain(a.s("x"), b.s())  # type: ignore[call-overload]
chain(a.s(1), b.s("q"), c.s())  # type: ignore[call-overload]
chain(a.s(1), b.s(m=1))  # type: ignore[call-overload]
group(a.s(i) for i in "ab")  # type: ignore[call-overload]
b.si()  # type: ignore[call-arg]
a.si("x")  # type: ignore[arg-type]
chain(a.s(1), 5)  # type: ignore[call-overload]
chain(a, b)  # type: ignore[call-overload]
group(1, 2)  # type: ignore[call-overload]
group(a.s(1)).then(5)  # type: ignore[arg-type]
chain(a.s(1)).using(que="bulk")  # type: ignore[call-arg]
chain(a.s(1), a.s(1))  # type: ignore[call-overload]
a.s(1) | b.s()  # type: ignore[operator]
a.s(1)()  # type: ignore[operator]
chain(a.s(1), b.s())()  # type: ignore[operator]
chain(a.s(1), b.s()).delay()  # type: ignore[attr-defined]
chain([a.s(1), b.s()])  # type: ignore[call-overload]

# mypy leaves the type of `s()` open, and takes these; see the first lines.
chain(a.s(1), c.s())  # refused by pyright alone
chain(a.s(1), g0.s())  # refused by pyright alone
chain(c.s(1.0), a.s())  # refused by pyright alone
group(a.s(i) for i in range(3)).then(b.s())  # refused by pyright alone
group([a.s(1)], partial=True).then(total.s())  # refused by pyright alone
