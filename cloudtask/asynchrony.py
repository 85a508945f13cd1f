"""Says which method asynchronous code awaits in place of a synchronous one."""

from __future__ import annotations

from django.core.exceptions import SynchronousOnlyOperation


class synchronous:
    """A block of a method that Django may refuse in asynchronous code.

    Django's error then names the method to await instead.
    """

    __slots__ = ("instead", "of", "verb")

    def __init__(self, of: str, verb: str, instead: str | None = None) -> None:
        self.of = of
        self.verb = verb
        self.instead = instead or f"a{verb}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, SynchronousOnlyOperation):
            raise SynchronousOnlyOperation(
                f"{self.of}.{self.verb} uses the database, which asynchronous code "
                f"can't do: write await {self.of}.{self.instead}(...)."
            ) from error
