"""Says what to write in place of the spellings that other libraries have for workflows.

Type checkers don't see these methods, so they refuse what is refused here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

STARTS = ("apply", "apply_async", "delay", "enqueue", "send")
LINKS = ("clone", "link", "link_error", "pipe", "then")


class Familiar:
    """Signatures, chains and groups; `_verbs` are foreign names, and what to write."""

    __slots__ = ()

    _verbs: ClassVar[dict[str, str]]
    _when_called: ClassVar[str]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Copies look up special names before they have values, and so no repr.
            if name not in self._verbs:
                kind = type(self).__name__.lower()
                raise AttributeError(f"A {kind} has no attribute {name!r}")
            instead = self._verbs[name].format(self)
            raise AttributeError(f"{self!r} has no {name!r}: {instead}.")

        def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
            instead = self._when_called.format(self)
            raise TypeError(f"{self!r} can't be called: {instead}.")

        def __or__(self, other: Any) -> NoReturn:
            raise TypeError(f"{self!r} has no operator |: write chain({self!r}, ...).")

        def __ror__(self, other: Any) -> NoReturn:
            raise TypeError(f"{self!r} has no operator |: write chain(..., {self!r}).")
