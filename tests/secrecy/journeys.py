"""Journeys of calls that carry a marked secret, and all that can be seen of them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from io import StringIO
from typing import Any, Unpack

from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import transaction
from django.db.models.functions import Now
from django.dispatch import Signal
from django.test import Client, override_settings

from cloudtask import (
    Schedule,
    call,
    chain,
    deferred,
    envelope,
    failpoints,
    group,
    inspect,
    runtime,
    signals,
)
from cloudtask.iteration import Iteration, sweep
from cloudtask.iteration.description import IterateOptions
from cloudtask.message import Delivery
from cloudtask.models import OutboxMessage
from cloudtask.schedules import declare
from cloudtask.schedules.declared import _declared
from cloudtask.schedules.ticking import tick
from cloudtask.stores import store
from cloudtask.transports import memory
from tests.secrecy import reporters, tasks
from tests.secrecy.reporters import Records, recorded
from tests.support import clock
from tests.testapp.models import Author

MARK = tasks.MARK
KEY = f"key-{MARK}"
DELIVERIES = 60


class Broken(Exception):
    """What a failpoint raises."""


class Hidden:
    """A value that frames of tests may hold, since its repr tells nothing."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<hidden>"


@dataclass
class Watch:
    """What a user of the library sees: errors, logs, signals, output of commands."""

    records: Records
    errors: list[BaseException] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Keep what the block raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  it is looked at later
            self.errors.append(error)

    def told(self, **given: Any) -> None:
        """A receiver of signals, whose frame shows what it was given."""
        self.texts.append(repr(given))

    def check(self) -> None:
        """Raise AssertionError if the secret is to be seen anywhere."""
        for text in (*self.texts, *self.records.texts):
            assert MARK not in text, _around(text)
        for error in self.all_errors():
            for name, text in reporters.held(error):
                assert MARK not in text, f"{name} of {error!r}: {_around(text)}"

    def all_errors(self) -> list[BaseException]:
        return [*self.errors, *self.records.errors]


def _around(text: str) -> str:
    at = text.index(MARK)
    return text[max(0, at - 1500) : at + 200]


SIGNALS: tuple[Signal, ...] = (
    signals.task_enqueued,
    signals.task_started,
    signals.task_finished,
)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch all that happens in the block, and check it at the end."""
    with recorded() as records:
        watch = Watch(records)
        for signal in SIGNALS:
            signal.connect(watch.told)
        try:
            yield watch
        finally:
            for signal in SIGNALS:
                signal.disconnect(watch.told)
    watch.check()


@contextmanager
def passing() -> Iterator[set[str]]:
    """The failpoints that are passed inside the block."""
    passed: set[str] = set()
    with ExitStack() as stack:
        for point in failpoints.POINTS:
            stack.enter_context(failpoints.at(point, partial(passed.add, point)))
        yield passed


@contextmanager
def breaking(point: str, times: int = 2) -> Iterator[list[Broken]]:
    """Raise at the failpoint, the first times that it is passed; a list of what was."""
    raised: list[Broken] = []

    def act() -> None:
        if len(raised) < times:
            raised.append(Broken(point))
            raise raised[-1]

    with failpoints.at(point, act):
        yield raised


def deliver_all(watch: Watch) -> None:
    """Deliver what waits, as Cloud Tasks would, each call a few times at most."""
    waiting: list[tuple[Any, int]] = []
    for _ in range(DELIVERIES):
        while (entry := memory.queue().pop()) is not None:
            waiting.append((entry, 0))
        if not waiting:
            return
        entry, retries = waiting.pop(0)
        clock.move(max(1.0, entry.due - clock.now()))
        settled = False
        with watch.trying():
            message = envelope.unseal(entry.body, now=clock.now())
            settled = runtime.execute(message, Delivery(retries=retries)).is_settled
        if not settled and retries < 4:
            waiting.append((entry, retries + 1))


# Each journey begins something with the secret in it.

Journey = Callable[[Watch, Hidden, Hidden], None]


def at_once(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    with watch.trying():
        tasks.take.defer(*args.value, **kwargs.value)
    with watch.trying():
        tasks.take.using(**options().value).defer(*args.value, **kwargs.value)
    with watch.trying():
        many = [call(*args.value, **kwargs.value) for _ in range(3)]
        hidden = Hidden(many)
        del many
        tasks.take.defer_many(hidden.value)


def options() -> Hidden:
    return Hidden({"headers": {"X-Api-Key": MARK}, "url": f"/hook?token={MARK}"})


def in_a_transaction(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    with watch.trying(), transaction.atomic():
        tasks.take.using(**options().value).defer(*args.value, **kwargs.value)
        tasks.take.defer(*args.value, **kwargs.value)
        tasks.take.using(small=True).defer(*args.value, **kwargs.value)
    clock.move(3600)
    with watch.trying():
        call_command("cloudtask_relay", stdout=StringIO())


def large(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    filling = secrets.token_hex(20_000)
    with watch.trying():
        tasks.take.defer(filling, *args.value, **kwargs.value)
    with watch.trying(), transaction.atomic():
        tasks.fail.defer(filling, *args.value, **kwargs.value)


def failing(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    for one in (tasks.fail, tasks.fail_atomically, tasks.afail, tasks.again):
        with watch.trying():
            one.using(**options().value).defer(*args.value, **kwargs.value)
    with watch.trying():
        deferred.defer(tasks.plain, *args.value, **kwargs.value)


def masked(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    """A failed task whose arguments have names that MASKED hides."""
    named = Hidden({"password": args.value[0], "api_key": [args.value[0]]})
    with watch.trying():
        tasks.log_in.defer(**named.value)
    deliver_all(watch)
    for failed in store().list_failed(task=tasks.log_in.path, limit=9):
        out = StringIO()
        with watch.trying():
            call_command("cloudtask_failed", "show", failed.key, stdout=out)
        watch.texts.append(out.getvalue())


def unique(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    for _ in range(2):
        with watch.trying():
            tasks.alone.defer(*args.value, **kwargs.value)
    with watch.trying(), transaction.atomic():
        tasks.alone.defer(*args.value, **kwargs.value)


def relayed_by_url(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    with watch.trying(), transaction.atomic():
        tasks.take.using(**options().value).defer(*args.value, **kwargs.value)
        tasks.fail.defer(*args.value, **kwargs.value)
        _without_hooks()
    OutboxMessage.objects.update(due_at=Now())
    for token in (KEY, f"wrong {MARK}"):
        headers = {"Authorization": f"Bearer {token}"}
        with watch.trying():
            answer = Client().post("/_cloudtask/relay/", headers=headers)
            watch.texts.append(repr((answer.status_code, answer.content)))


def _without_hooks() -> None:
    """Leave the rows of the open transaction to a relay, as a crash would."""
    transaction.get_connection().run_on_commit.clear()


def iterating_by_rows(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    iterating(watch, args, kwargs, atomic="row", on_error="skip")


def iterating(
    watch: Watch, args: Hidden, kwargs: Hidden, **policy: Unpack[IterateOptions]
) -> None:
    Author.objects.bulk_create(Author(name=name) for name in "abc")
    with watch.trying():
        run = tasks.visit.using(**options().value).iterate(
            Author.objects.exclude(name=args.value[0]),
            args=args.value,
            kwargs=kwargs.value,
            finalize=tasks.finish,
            shards=1,
            keep=True,
            **policy,
        )
        watch.texts.append(repr(run))
        deliver_all(watch)
        _control(watch, run)


def _control(watch: Watch, run: Iteration) -> None:
    for act in (run.retry_failures, run.resume, run.pause, run.cancel):
        with watch.trying():
            act()
    with watch.trying():
        watch.texts.append(repr(run.report()))
    with watch.trying():
        clock.move(3600)
        sweep()


def in_a_group(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    """A group whose members succeed, and one with a member that fails."""
    for member in (tasks.give_kept, tasks.fail):
        with watch.trying():
            one, two = tasks.give_kept.s(*args.value), member.s(*args.value)
            made = group(one, two, on_failure=tasks.note_failure.s(*args.value))
            last = made.then(tasks.gather.s(*args.value))
            watch.texts += (repr(one), repr(made), repr(last))
            receipt = last.using(transactional=False).defer()
            clock.move(3600)
            call_command("cloudtask_relay", stdout=StringIO())
            deliver_all(watch)
            watch.texts.append(repr(receipt))
            hidden = Hidden(receipt.result(timeout=0))
            watch.texts.append(repr(hidden))


def in_a_chain(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    """Chains that hand the secret on: one to its end, one to a step that fails, one by
    the store."""
    filling = "-".join(secrets.token_hex(16) for _ in range(1000))
    for second, more in (
        (tasks.give_kept, ""),
        (tasks.fail, ""),
        (tasks.fail, filling),
    ):
        with watch.trying():
            steps = (tasks.give_kept.s(more, *args.value), second.s(*args.value))
            made = chain(*steps, on_failure=tasks.note_failure.s(*args.value))
            watch.texts += (repr(steps), repr(made))
            receipt = made.defer()
            watch.texts.append(repr(receipt))
            deliver_all(watch)
            hidden = Hidden(receipt.result(timeout=0))
            watch.texts.append(repr(hidden))


def cancelled(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    """Calls that are cancelled before they begin, in a transaction, and too late."""
    for one in (tasks.begin, tasks.take, tasks.fail_atomically):
        with watch.trying():
            receipt = one.defer(*args.value, **kwargs.value)
            watch.texts.append(repr(receipt.cancel()))
        with watch.trying(), transaction.atomic():
            receipt = one.defer(*args.value, **kwargs.value)
            watch.texts.append(repr(receipt.cancel()))
        with watch.trying():
            receipt = one.defer(*args.value, **kwargs.value)
            deliver_all(watch)
            watch.texts.append(repr(receipt.cancel()))
            _command(watch, "cloudtask_cancel", receipt.id, "--json")


def over_items(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    """Items that are secrets: each fails, and its key is its place."""
    items = Hidden([Hidden.__name__, args.value[0], {"note": args.value[0]}])
    with watch.trying():
        run = tasks.look.map(
            items.value,
            args=args.value,
            kwargs=kwargs.value,
            on_error="skip",
            keep=True,
        )
        watch.texts.append(repr(run))
        deliver_all(watch)
        for line in (("--shards",), ("--failures",), ("--failures", "--json")):
            _command(watch, "cloudtask_iterations", "show", run.id, *line)
        _control(watch, run)


def asynchronously(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    async def begin() -> None:
        await tasks.take.adefer(*args.value, **kwargs.value)
        many = Hidden([call(*args.value, **kwargs.value) for _ in range(2)])
        await tasks.afail.adefer_many(many.value)
        await tasks.look.amap([args.value[0]], args=args.value, on_error="skip")

    with watch.trying():
        async_to_sync(begin)()


def on_a_spread_queue(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    for one in (tasks.take, tasks.fail):
        with watch.trying():
            one.using(queue="bulk").defer(*args.value, **kwargs.value)
        with watch.trying(), transaction.atomic():
            many = Hidden([call(*args.value, **kwargs.value) for _ in range(4)])
            one.using(queue="bulk").defer_many(many.value)


def declared(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    """A task whose own options have the secret."""
    watch.texts.append(repr(tasks.tell_partner))
    with watch.trying():
        tasks.tell_partner.defer(*args.value, **kwargs.value)
    with watch.trying(), transaction.atomic():
        tasks.tell_partner.defer(*args.value, **kwargs.value)
    _command(watch, "cloudtask_tasks", "list")
    _command(watch, "cloudtask_tasks", "list", "--json")
    with watch.trying():
        raise TypeError(tasks.tell_partner.using(nme="x"))  # type: ignore[call-arg]


def inspected(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    """Calls that wait, ran and failed, as `cloudtask.inspect` shows them."""
    receipts = []
    with watch.trying(), transaction.atomic():
        receipts.append(tasks.take.defer(*args.value, **kwargs.value))
        _look(watch, receipts)
        _without_hooks()
    for one in (tasks.give_kept, tasks.fail):
        with watch.trying():
            given = one.using(**options().value)
            receipts.append(given.defer(*args.value, **kwargs.value))
    _look(watch, receipts)
    deliver_all(watch)
    _look(watch, receipts)


def _look(watch: Watch, receipts: Sequence[Any]) -> None:
    for receipt in receipts:
        for full in (False, True):
            with watch.trying():
                watch.texts.append(repr(inspect.find(receipt.id, full=full)))
    for listed in (
        lambda: inspect.tasks("default"),
        inspect.outbox,
        inspect.failed,
        inspect.queues,
        inspect.schedules,
    ):
        with watch.trying():
            watch.texts.append(repr(list(listed())))


class Observed:
    """A carrier of the project that takes a secret along."""

    name = "observed"

    def capture(self) -> dict[str, str]:
        return {"session": MARK}

    @contextmanager
    def restore(self, carried: Any, context: Any) -> Iterator[None]:
        del carried
        yield


def carried(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    """Calls that spans, metrics and events tell of."""
    given = {**django_settings.CLOUDTASK, "CARRIERS": CARRIERS}
    with reporters.telemetry() as told, override_settings(CLOUDTASK=given):
        for one in (tasks.give_kept, tasks.fail, tasks.afail, tasks.again):
            with watch.trying():
                one.using(**options().value).defer(*args.value, **kwargs.value)
        with watch.trying(), transaction.atomic():
            tasks.fail_atomically.defer(*args.value, **kwargs.value)
        iterating(watch, args, kwargs, on_error="skip")
        deliver_all(watch)
        with watch.trying():
            call_command("cloudtask_relay", stdout=StringIO())
    watch.texts += told


CARRIERS = (
    f"{__name__}.Observed",
    "tests.carriers.tracing.linked",
    "cloudtask.contrib.sentry.Sentry",
)


def kept(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    with watch.trying():
        receipt = tasks.give_kept.defer(*args.value, **kwargs.value)
        deliver_all(watch)
        watch.texts += (repr(receipt), repr(store().load_result(receipt.id)))
        watch.texts.append(repr(Hidden(receipt.result(timeout=0))))


def on_a_schedule(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    every = Schedule(
        timedelta(hours=1), args=args.value, kwargs=kwargs.value, key="hourly"
    )
    before = dict(_declared)
    declare(tasks.take._self_definition, every)
    try:
        watch.texts += (repr(every), repr(_declared["hourly"]))
        for _ in range(2):
            with watch.trying():
                tick()
            clock.move(3600)
        for line in (("list",), ("run", "hourly"), ("disable", "hourly")):
            _command(watch, "cloudtask_schedules", *line)
    finally:
        _declared.clear()
        _declared.update(before)


def results(watch: Watch, args: Hidden, kwargs: Hidden) -> None:
    plain = (args.value[0],)
    hidden = Hidden(plain)
    del plain
    kept = []
    for one in (tasks.give, tasks.give_nothing):
        with watch.trying():
            kept.append((one, one.enqueue(*hidden.value, body=hidden.value[0]).id))
    deliver_all(watch)
    for one, key in kept:
        with watch.trying():
            one.get_result(key)


JOURNEYS = (
    at_once,
    in_a_transaction,
    relayed_by_url,
    large,
    failing,
    masked,
    unique,
    iterating,
    iterating_by_rows,
    results,
    in_a_group,
    kept,
    on_a_schedule,
    in_a_chain,
    cancelled,
    over_items,
    asynchronously,
    on_a_spread_queue,
    declared,
    carried,
    inspected,
)


def commands(watch: Watch) -> None:
    """What lists, retries and removes: none of it may tell what is not shown."""
    for arguments in (
        ("cloudtask_failed", "list"),
        ("cloudtask_failed", "retry", "--all"),
        ("cloudtask_failed", "discard", "--all"),
        ("cloudtask_relay", "--parked"),
        ("cloudtask_prune",),
    ):
        _command(watch, *arguments)


def _command(watch: Watch, *arguments: str) -> None:
    out = StringIO()
    # A command may say by its exit status that it has found something.
    with watch.trying(), suppress(SystemExit):
        call_command(*arguments, stdout=out, stderr=out)
    watch.texts.append(out.getvalue())


def lists(watch: Watch) -> None:
    """The other commands that list, and the pages of the dashboard, as someone sees
    them who may not see arguments."""
    for line in (
        ("cloudtask_status",),
        ("cloudtask_tasks", "list"),
        ("cloudtask_outbox", "list"),
        ("cloudtask_iterations", "list"),
        ("cloudtask_failed", "list", "--json"),
        ("cloudtask_failed", "list", "--group-by", "error", "--json"),
        ("cloudtask_outbox", "list", "--json"),
        ("cloudtask_results", "list", "--json"),
        ("cloudtask_schedules", "list", "--json"),
        ("cloudtask_doctor",),
        ("cloudtask_doctor", "--json"),
    ):
        _command(watch, *line)
    user = User.objects.create(username="ann", is_staff=True)
    seen = Permission.objects.filter(content_type__app_label="cloudtask")
    user.user_permissions.set(seen.exclude(codename="view_failed_details"))
    visitor = Client()
    visitor.force_login(user)
    for part in PAGES:
        with watch.trying():
            _visit(watch, visitor, f"/tasks/{part}")
    for part, data in ACTS:
        with watch.trying():
            answer = visitor.post(f"/tasks/{part}", data, follow=True)
            watch.texts.append(answer.content.decode())
    user.delete()


PAGES = (
    *("", "iteration/", "failed/", "outbox/", "queue/", "task/", "schedule/"),
    *("group/", "result/"),
)
ACTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("doctor/", {}),
    ("failed/", {"verb": "discard-all"}),  # the question shows some of them
    ("failed/", {"verb": "retry-all", "confirmed": "1", "all": "1"}),
    ("outbox/", {"verb": "all:default"}),
    ("schedule/", {"verb": "run:hourly"}),
)


def _visit(watch: Watch, visitor: Client, place: str) -> None:
    """Visit a list and the page of each thing that it names."""
    text = visitor.get(place).content.decode()
    watch.texts.append(text)
    for link in sorted(set(re.findall(rf"{place}[^/\"]+/change/", text))):
        answer = visitor.get(link)
        assert answer.status_code == 200
        watch.texts.append(answer.content.decode())
