"""Defines a task of `django.tasks` that also takes the options of this library."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

from cloudtask.backend.backend_options import OF_TASK
from cloudtask.backend.library import Task, normalize_json, task_backends
from cloudtask.backend.runner import definition_of
from cloudtask.backend.task_results import fields_of
from cloudtask.options import advice
from cloudtask.workflows import Signature

# `name` is a property of every task of `django.tasks`: the name of its function.
_NAMES = ("name_of_call", *OF_TASK)
_Fields: Any = make_dataclass(
    "_Fields",
    [(name, Any, None) for name in _NAMES],
    bases=(Task,),
    frozen=True,
    slots=True,
    kw_only=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudTask(_Fields):  # type: ignore[misc]
    """A task of `django.tasks` with the options of this library.

    `using()` takes them. The decorator takes them where Django hands them on: from 6.1,
    and in the backport. None leaves an option to the backend's OPTIONS.
    """

    def using(self, **changes: Any) -> CloudTask:
        """A task with other fields; raises TypeError for an unknown one.

        `name` is the Cloud Tasks id of a single call: a second call of it is refused.
        """
        if "name" in changes:
            changes["name_of_call"] = changes.pop("name")
        known = [field.name for field in fields(self) if field.name != "func"]
        for name in changes:
            if name not in known:
                raise TypeError(f"Unknown option {name!r}; {advice(name, known)}")
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, **given)

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A call for `chain()` and `group()` of cloudtask.

        In a chain the function gets the value of the step before as its first argument,
        after its context. Raises TypeError for arguments that are not JSON.
        """
        return self._signature(args, kwargs, is_immutable=False)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """As `s`, but the function gets these arguments alone, and no value."""
        return self._signature(args, kwargs, is_immutable=True)

    def _signature(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_immutable: bool
    ) -> Signature:
        backend: Any = task_backends[self.backend]
        backend.validate_task(self)
        options = backend.options_of(self)
        made_of = fields_of(self)
        if options.atomic:
            made_of["atomic"] = True
        plain: Any = normalize_json([args, kwargs])
        return Signature(
            *(definition_of(self), options, (made_of,), tuple(plain[0]), plain[1]),
            is_immutable=is_immutable,
        )

    @property
    def task_options(self) -> dict[str, Any]:
        """The options of this library that this task has itself."""
        own = {name: getattr(self, name) for name in OF_TASK}
        own["name"] = self.name_of_call
        return {name: value for name, value in own.items() if value is not None}
