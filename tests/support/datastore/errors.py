"""Errors of the server: a gRPC status code and a sentence each."""

from __future__ import annotations

from typing import NoReturn

from grpc import StatusCode


class Refused(Exception):
    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> NoReturn:
    raise Refused(StatusCode.INVALID_ARGUMENT, message)


def unimplemented(what: str) -> NoReturn:
    """Refuses loudly what Google's service has and this server lacks."""
    raise Refused(
        StatusCode.UNIMPLEMENTED, f"The test Datastore server does not support {what}."
    )
