"""The facts about one option of a task."""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any

from cloudtask.options.checking import Check

_KEY = "option"  # in the metadata of a field of `Options`


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: how it is checked, where it may stand, and what the docs say of it.

    `only_in_using` keeps it out of `@task`. `travels` puts it into the message: the
    handler or a successor of the message needs it. `deferred` holds its names in
    `cloudtask.deferred.defer`. `not_in_django_tasks` is the reason why the OPTIONS of a
    backend of django.tasks lack it. `meaning` and `shown` are its line in
    docs/reference/options.md; without `shown` that line has the repr of the default.
    """

    name: str
    default: Any
    check: Check
    meaning: str
    shown: str | None = None
    only_in_using: bool = False
    travels: bool = False
    deferred: tuple[str, ...] = ()
    not_in_django_tasks: str = ""

    def checked(self, value: Any) -> Any:
        """The value to keep; raises TypeError or ValueError.

        A value that is the default is not checked.
        """
        if value is self.default:
            return value
        return self.check(self.name, value)


def option(
    default: Any, check: Check, meaning: str, *, repr: bool = True, **facts: Any
) -> Any:
    """A field of `Options` that also holds the facts about the option.

    With `repr=False` the option is not in the repr of `Options`: it may hold secrets.
    """
    facts |= {"default": default, "check": check, "meaning": meaning}
    return field(default=default, repr=repr, metadata={_KEY: facts})


def option_of(declared: Field[Any]) -> Option | None:
    """The option that a field declares, if it is one."""
    facts = declared.metadata.get(_KEY)
    return None if facts is None else Option(name=declared.name, **facts)
