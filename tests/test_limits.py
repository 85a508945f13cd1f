"""What is refused at `defer()`, exactly where, and what the refusal says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from django.test import override_settings

from cloudtask import conf, quotas, task
from cloudtask.exceptions import (
    ConfigurationError,
    EnqueueError,
    PayloadTooLarge,
    QueueNotFound,
    UnsupportedValue,
)
from cloudtask.options import Backoff, options_from_wire
from tests.support import recording
from tests.testapp.models import Author
from tests.testapp.tasks import note, small_note

TRANSPORT = {"BACKEND": recording.PATH}


@pytest.fixture(autouse=True)
def _recorded() -> Iterator[None]:
    recording.sent.clear()
    with override_settings(CLOUDTASK={"TRANSPORT": TRANSPORT}):
        yield


def refusal(
    *args: Any,
    error: type[Exception] = EnqueueError,
    deferred: Any = note,
    **options: Any,
) -> str:
    with pytest.raises(error) as caught:
        deferred.using(**options).defer(*args)
    assert not recording.sent
    return str(caught.value)


def named(text: str, queue: str = "default", path: str = note.path) -> bool:
    """Tell whether a refusal names the queue and the task."""
    return path in text and repr(queue) in text


# Arguments.


def test_an_argument_that_cannot_travel_is_named_by_its_place() -> None:
    text = refusal([1, {"lock": object()}], error=UnsupportedValue)
    assert text.startswith(f"args[0][1]['lock'] of {note.path}: object can't travel")


@pytest.mark.parametrize("deferred", [note, note.using(queue="slow")])
def test_arguments_that_the_function_does_not_take_are_a_type_error(
    deferred: Any,
) -> None:
    from tests.testapp.tasks import add_author

    for args, kwargs in (((), {}), ((1, 2), {}), ((), {"nam": 1}), ((1,), {"name": 1})):
        with pytest.raises(TypeError, match=r"add_author\(name: 'str'\)"):
            add_author.defer(*args, **kwargs)
    assert not recording.sent


# Sizes. The payload of one str of n ASCII characters has n + 8 bytes: [["..."],{}].


def text_of(size: int) -> str:
    return "x" * (size - len('[[""],{}]'))


def test_a_small_task_takes_exactly_100_kb() -> None:
    small_note.defer(text_of(100 * 1024))
    assert len(recording.sent.pop().payload) == 100 * 1024
    text = refusal(text_of(100 * 1024 + 1), error=PayloadTooLarge, deferred=small_note)
    assert named(text, path=small_note.path)
    assert "102,401 bytes" in text
    assert "small=True" in text
    assert "Pass the id" in text


def test_the_largest_payload_is_refused_one_byte_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quotas, "PAYLOAD", 5000)
    note.defer(text_of(5000))
    recording.sent.clear()
    assert named(refusal(text_of(5001), error=PayloadTooLarge))


def test_size_is_counted_in_bytes_not_in_characters() -> None:
    refusal("\u20ac" * 40_000, error=PayloadTooLarge, deferred=small_note)


# Times.


def test_a_call_may_be_30_days_ahead_and_no_more() -> None:
    note.using(countdown=timedelta(days=30)).defer()
    note.using(eta=datetime.now(UTC) + timedelta(days=30)).defer()
    recording.sent.clear()
    text = refusal(countdown=timedelta(days=30, seconds=1))
    assert named(text)
    assert "30" in text
    assert "next leg" in text


@pytest.mark.parametrize(
    "past",
    [{"eta": datetime(2020, 1, 1, tzinfo=UTC)}, {"countdown": timedelta(hours=-1)}],
    ids=["eta", "countdown"],
)
def test_a_past_moment_means_now_with_a_warning(
    past: Any, caplog: pytest.LogCaptureFixture
) -> None:
    note.using(**past).defer()
    assert len(recording.sent) == 1
    assert named(caplog.text)
    assert "seconds ago, so it runs now" in caplog.text


def test_an_eta_may_lie_a_little_behind_since_clocks_differ(
    caplog: pytest.LogCaptureFixture,
) -> None:
    note.using(eta=datetime.now(UTC) - timedelta(seconds=5)).defer()
    assert len(recording.sent) == 1
    assert caplog.text == ""


def test_the_zone_of_an_eta_counts() -> None:
    moment = datetime(2090, 1, 1, 12, tzinfo=ZoneInfo("America/New_York"))
    with pytest.raises(EnqueueError, match="days"):
        note.using(eta=moment).defer()
    soon = datetime.now(UTC) + timedelta(hours=1)
    there = soon.astimezone(ZoneInfo("Asia/Tokyo"))
    note.using(eta=there).defer()
    assert recording.sent[0].eta == soon.timestamp()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"eta": datetime(2090, 1, 1)}, ValueError, "aware"),
        ({"eta": "tomorrow"}, TypeError, "'eta' must be datetime"),
        ({"countdown": "5"}, TypeError, "countdown must be a timedelta or seconds"),
        ({"countdown": True}, TypeError, "countdown"),
        (
            {"countdown": 1, "eta": datetime.now(UTC)},
            ValueError,
            "eta or countdown, not both",
        ),
        ({"max_attempts": 0}, ValueError, "1 or more"),
        ({"max_attempts": "3"}, TypeError, "'max_attempts' must be int"),
        ({"queue": None}, TypeError, "'queue' must be str"),
        ({"small": 1}, TypeError, "'small' must be bool"),
        ({"headers": ["a"]}, TypeError, "'headers' must be Mapping"),
        ({"backoff": 5}, TypeError, "Backoff or a function"),
        ({"unique": "yes"}, TypeError, "bool or a function"),
        ({"name": 5}, TypeError, "'name' must be str"),
        ({"timeout": "1m"}, TypeError, "timeout must be a timedelta or seconds"),
    ],
)
def test_an_option_of_a_wrong_kind_is_refused_before_defer(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        note.using(**options)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("countdwon", "did you mean 'countdown'?"),
        ("Queue", "did you mean 'queue'?"),
        ("retries", "write max_attempts="),
        ("carries_backoff", "did you mean 'backoff'?"),
        ("travelling", "known are "),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest(name: str, hint: str) -> None:
    for declare in (note.using, task):
        with pytest.raises(TypeError, match=re.escape(repr(name))) as caught:
            declare(**{name: 3})
        assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["countdown", "eta", "name"])
def test_what_belongs_to_one_call_is_refused_in_a_declaration(name: str) -> None:
    with pytest.raises(TypeError, match=rf"\.using\({name}="):
        task(**{name: None})


def test_eta_and_countdown_replace_one_another() -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    note.using(countdown=5).using(eta=later).defer()
    assert recording.sent[0].eta == later.timestamp()
    note.using(eta=later).using(countdown=5).defer()
    assert recording.sent[1].eta == pytest.approx(recording.sent[1].created + 5)


# Names, queues, timeouts, addresses.


@pytest.mark.parametrize("name", ["a", "A-Z_09", "x" * 500])
def test_a_name_of_the_callers_own_is_used(name: str) -> None:
    assert note.using(name=name).defer().name == name
    assert recording.sent[0].named


@pytest.mark.parametrize(
    "name", ["", "x" * 501, "a b", "a/b", "a.b", "caf\u00e9", "a\n", "\u0663"]
)
def test_a_name_that_the_service_does_not_take_is_refused(name: str) -> None:
    text = refusal(name=name)
    assert named(text)
    assert f"{name!r:.60}" in text


def test_generated_names_are_all_different_and_do_not_begin_alike() -> None:
    names = [note.defer().name for _ in range(50)]
    assert len(set(names)) == 50
    assert len({name[:4] for name in names}) > 40
    assert all(quotas.NAME.fullmatch(name) for name in names)


@pytest.mark.parametrize("queue", ["default", "a", "A-9", "q" * 100])
def test_any_queue_will_do_where_none_are_declared(queue: str) -> None:
    assert note.using(queue=queue).defer().queue == queue


@pytest.mark.parametrize(
    "queue", ["", "q" * 101, "under_score", "a/b", "a\n", "\u00fc"]
)
def test_a_queue_that_cannot_exist_is_refused(queue: str) -> None:
    assert named(refusal(queue=queue), queue)


def test_a_queue_that_is_not_declared_is_refused_with_the_nearest() -> None:
    with override_settings(
        CLOUDTASK={"TRANSPORT": TRANSPORT, "QUEUES": {"default": {}, "mails": {}}}
    ):
        note.using(queue="mails").defer()
        recording.sent.clear()
        text = refusal(queue="mail", error=QueueNotFound)
    assert named(text, "mail")
    assert "did you mean 'mails'?" in text


HTTP = {
    "BACKEND": "cloudtask.targets.HttpTarget",
    "URL": "https://app.example",
    "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
}


@pytest.mark.parametrize(
    ("target", "low", "high"),
    [
        (HTTP, 15, 30 * 60),
        ({"BACKEND": conf.APP_ENGINE_TARGET}, 15, 24 * 3600 + 15),
    ],
)
def test_a_timeout_lies_within_what_the_target_takes(
    target: dict[str, Any], low: int, high: int
) -> None:
    with override_settings(CLOUDTASK={"TRANSPORT": TRANSPORT, "TARGET": target}):
        for good in (low, high, timedelta(seconds=high)):
            note.using(timeout=good).defer()
        recording.sent.clear()
        for bad in (low - 0.001, high + 0.001, 0, -1):
            text = refusal(timeout=bad)
            assert named(text)
            assert f"{low:g}" in text
            assert f"{high:g}" in text


@pytest.mark.parametrize("url", ["/tasks/", "/tasks/?next=https://x.example/"])
def test_another_path_is_taken(url: str) -> None:
    note.using(url=url).defer()
    assert recording.sent[0].options.url == url


@pytest.mark.parametrize(
    "url",
    ["", "tasks/", "ftp://x.example/", "x.example", "/" + "x" * 2083],
)
def test_a_url_that_cannot_be_called_is_refused(url: str) -> None:
    assert named(refusal(url=url))


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": 1},
        {1: "x"},
        {"X-A": "one\r\nX-B: two"},
        {"X\nA": "one"},
        {"X-A": "\0"},
        {"X-A": "a\x85b"},
        {"X-A": "a\u2028b"},
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers: dict[Any, Any]) -> None:
    for give in (task, note.using):
        with pytest.raises(ValueError, match="header"):
            give(headers=headers)


def test_headers_that_are_too_large_are_refused() -> None:
    for headers in ({"X-A": "x" * 81_920}, {f"X-{n}": "x" * 8_000 for n in range(11)}):
        for give in (task, note.using):
            with pytest.raises(ValueError, match=r"bytes; Cloud Tasks takes 81,920\.$"):
                give(headers=headers)


TAKEN = [
    "Authorization",
    "authorization",
    "Host",
    "Content-Length",
    "Content-Type",
    "Transfer-Encoding",
    "Connection",
    "X-CloudTasks-QueueName",
    "X-AppEngine-TaskRetryCount",
    "x-appengine-anything",
    "X-Google-Mine",
    "X_CloudTasks_QueueName",
    "x_appengine_QueueName",
    "X-CloudScheduler",
    "Content_Length",
    "Content-Encoding",
    " Host",
    "Cookie",
    "COOKIE",
    "TE",
    "Trailer",
    "Upgrade",
    "Expect",
    "Keep-Alive",
    "Keep_Alive",
    "Proxy-Authorization",
    "proxy_connection",
    "Transfer_Encoding",
]


@pytest.mark.parametrize("name", TAKEN)
def test_headers_that_would_not_arrive_are_refused_when_they_are_given(
    name: str,
) -> None:
    headers = {"X-Fine": "1", name: "x"}
    for give in (task, note.using):
        with pytest.raises(ValueError, match=f"headers can't have '{name}': .+\\.$"):
            give(headers=headers)


@pytest.mark.parametrize("name", ["X-Cloud-Trace-Context", "X-Host", "Accept"])
def test_other_headers_are_taken(name: str) -> None:
    note.using(headers={name: "x"}).defer()
    assert recording.sent[0].options.headers == {name: "x"}


def test_what_was_sent_with_such_a_header_is_still_read() -> None:
    options = options_from_wire({"headers": {"Host": "x"}}, "default")
    assert options.headers == {"Host": "x"}


def test_a_user_agent_is_refused_where_the_service_replaces_it() -> None:
    agent = {"user-agent": "mine"}
    note.using(headers=agent).defer()
    recording.sent.clear()
    with override_settings(CLOUDTASK={"TRANSPORT": TRANSPORT, "TARGET": HTTP}):
        text = refusal(headers=agent)
    assert named(text)
    assert "User-Agent" in text


# Settings.


@pytest.mark.parametrize(
    ("missing", "text"),
    [("LOCATION", "CLOUDTASK['LOCATION'] is not set"), ("TARGET", "URL")],
)
@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.django_db
def test_a_missing_setting_is_noticed_at_defer_whenever_the_task_would_leave(
    missing: str, text: str, transactional: bool
) -> None:
    given: dict[str, Any] = {
        "PROJECT": "p",
        "LOCATION": "l",
        "TARGET": HTTP,
        "TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT},
    }
    given[missing] = (
        {"BACKEND": "cloudtask.targets.HttpTarget"} if missing == "TARGET" else None
    )
    with (
        override_settings(CLOUDTASK=given),
        pytest.raises(ConfigurationError, match=re.escape(text)),
    ):
        note.using(transactional=transactional).defer()


def test_a_wrong_setting_is_noticed_at_defer() -> None:
    with (
        override_settings(CLOUDTASK={"LOCATON": "x"}),
        pytest.raises(ConfigurationError, match="did you mean 'LOCATION'"),
    ):
        note.defer()


def test_an_alias_that_is_not_in_databases_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"'othre'; did you mean 'other'\?"):
        note.using(database="othre").defer(1)


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X-Ü", "X\tA"])
def test_a_name_that_no_header_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="A header can't be named"):
        note.using(headers={name: "1"})


def test_a_name_that_servers_drop_is_refused_with_another_one() -> None:
    with pytest.raises(ValueError, match=r"underscore\. Write 'X-Tenant'"):
        note.using(headers={"X_Tenant": "1"})


def test_a_name_is_refused_twice_whatever_its_case() -> None:
    with pytest.raises(ValueError, match="the same name twice"):
        note.using(headers={"X-Tenant": "1", "x-tenant": "2"})


@pytest.mark.parametrize("value", ["é", "☃", "a\u00a0b", "\u202ea"])
def test_a_value_that_is_not_ascii_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="The header 'X-A' must be"):
        note.using(headers={"X-A": value})


@pytest.mark.parametrize("value", [" a", "a ", "\ta"])
def test_a_value_that_would_be_cut_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="without its outer spaces"):
        note.using(headers={"X-A": value})


@pytest.mark.parametrize("value", ["a\x01", "a\x7f", "a\nb"])
def test_a_value_with_control_characters_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be a line of str"):
        note.using(headers={"X-A": value})


@pytest.mark.parametrize("option", ["service", "version", "instance"])
@pytest.mark.parametrize(
    "value", ["", "../x", "x.y", "a\nb", "é", "-1", "a-", "a" * 101, "x/y", "A_b"]
)
def test_a_part_of_app_engine_is_an_id(option: str, value: str) -> None:
    for give in (task, note.using):
        with pytest.raises(ValueError, match=f"{option} must be 1 to 100 letters"):
            give(**{option: value})


@pytest.mark.parametrize("url", ["/a b", "https://app.example/a\tb", "/a\nb"])
def test_a_url_with_spaces_is_refused(url: str) -> None:
    with pytest.raises(EnqueueError, match="spaces, control characters"):
        note.using(url=url).defer(1)


@pytest.mark.parametrize("doublings", [2.5, True, "3"])
def test_doublings_are_whole_numbers(doublings: Any) -> None:
    with pytest.raises(TypeError, match="doublings must be an int"):
        Backoff(doublings=doublings)


@pytest.mark.parametrize("doublings", [-1, 2**31])
def test_doublings_fit_the_service(doublings: int) -> None:
    with pytest.raises(ValueError, match="doublings"):
        Backoff(doublings=doublings)


@pytest.mark.django_db
def test_a_refusal_leaves_the_transaction_as_it_was() -> None:
    with transaction.atomic():
        with pytest.raises(UnsupportedValue, match=r"testapp.tasks.note.*backoff"):
            note.using(backoff=lambda error, context: 1).defer(1)
        Author.objects.create(name="a")

    assert Author.objects.count() == 1
