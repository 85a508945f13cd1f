"""The contract of every transport. Run it by subclassing `TransportContract`.

A subclass has the fixtures `transport` and `settings_of_transport`, and says through
`names(queue)` what waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloudtask.exceptions import DuplicateTask
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.transports import Transport

Names = Callable[[str], list[str]]


def message(number: int = 0, queue: str = "default", **changes: Any) -> Message:
    """A message like one of `note.defer(number)`, as the runtime would make it."""
    import time
    import uuid

    message_id = uuid.uuid4().hex
    made = Message(
        id=message_id,
        task="tests.testapp.tasks.note",
        queue=queue,
        name=message_id,
        payload=f"[[{number}],{{}}]".encode(),
        created=time.time(),
        eta=time.time() + 3600,
        options=Options(queue=queue),
    )
    return replace(made, **changes)


class TransportContract:
    """The tests; `names` tells the names of the tasks that wait in a queue."""

    def test_a_message_that_was_sent_waits(
        self, transport: Transport, names: Names
    ) -> None:
        sent = message()
        transport.send(sent)
        assert names("default") == [sent.name]

    def test_a_generated_name_that_was_sent_before_counts_as_sent(
        self, transport: Transport, names: Names
    ) -> None:
        sent = message()
        transport.send(sent)
        transport.send(sent)
        assert names("default") == [sent.name]

    def test_a_named_task_is_refused_the_second_time(
        self, transport: Transport, names: Names
    ) -> None:
        transport.send(message(name="mine", named=True))
        with pytest.raises(DuplicateTask) as caught:
            transport.send(message(name="mine", named=True))
        assert names("default") == ["mine"]
        text = str(caught.value)
        assert "tests.testapp.tasks.note" in text
        assert "'mine'" in text
        assert "'default'" in text

    def test_a_named_message_with_a_row_that_was_sent_before_counts_as_sent(
        self, transport: Transport, names: Names
    ) -> None:
        sent = message(name="mine", named=True, outboxed=True)
        transport.send(sent)
        transport.send(sent)
        with pytest.raises(DuplicateTask):
            transport.send(replace(sent, id="another"))
        assert names("default") == ["mine"]

    def test_a_name_belongs_to_one_queue(
        self, transport: Transport, names: Names
    ) -> None:
        transport.send(message(name="mine", named=True))
        transport.send(message(name="mine", named=True, queue="mail"))
        assert names("mail") == ["mine"]

    def test_many_are_sent_to_their_queues(
        self, transport: Transport, names: Names
    ) -> None:
        sent = [message(n, queue=("default", "mail")[n % 2]) for n in range(250)]
        assert transport.send_many(sent) == [None] * 250
        for queue in ("default", "mail"):
            expected = {one.name for one in sent if one.queue == queue}
            assert set(names(queue)) == expected

    def test_none_are_many_too(self, transport: Transport, names: Names) -> None:
        assert transport.send_many([]) == []
        one = message()
        assert transport.send_many([one]) == [None]
        assert names("default") == [one.name]

    def test_of_many_those_that_are_refused_are_told_by_their_place(
        self, transport: Transport, names: Names
    ) -> None:
        taken = message(name="taken", named=True)
        transport.send(taken)
        sent = [message(n) for n in range(5)]
        sent[1] = message(name="taken", named=True)
        sent[3] = replace(sent[0])  # the same once more: sent already
        errors = transport.send_many(sent)
        assert [type(error) for error in errors] == [
            type(None),
            DuplicateTask,
            *[type(None)] * 3,
        ]
        assert set(names("default")) == {
            "taken",
            *(sent[n].name for n in (0, 2, 4)),
        }

    def test_of_two_that_share_a_name_one_is_sent(
        self, transport: Transport, names: Names
    ) -> None:
        twins = [message(n, name="twin", named=True) for n in range(2)]
        errors = transport.send_many(twins)
        assert [type(error) for error in errors] == [type(None), DuplicateTask]
        assert names("default") == ["twin"]

    def test_a_task_that_was_deleted_does_not_wait_and_its_name_stays_taken(
        self, transport: Transport, names: Names
    ) -> None:
        sent = [message(name=name, named=True) for name in ("one", "two")]
        transport.send_many(sent)
        assert transport.delete("default", "one") is True
        assert names("default") == ["two"]
        with pytest.raises(DuplicateTask):
            transport.send(sent[0])

    def test_a_task_that_is_not_there_can_not_be_deleted(
        self, transport: Transport, names: Names
    ) -> None:
        sent = message()
        transport.send(sent)
        assert transport.delete("default", "another") is False
        assert transport.delete("other", sent.name) is False
        assert names("default") == [sent.name]

    def test_many_threads_may_send(self, transport: Transport, names: Names) -> None:
        sent = [message(n) for n in range(24)]
        threads = [threading.Thread(target=transport.send, args=(one,)) for one in sent]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(names("default")) == {one.name for one in sent}
