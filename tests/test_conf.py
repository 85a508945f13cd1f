"""Settings: every key's type, default and refusal."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.test import override_settings
from django.test.utils import _TestState

from cloudtask import conf
from cloudtask.exceptions import ConfigurationError
from cloudtask.options import Backoff
from cloudtask.transports import transport
from cloudtask.transports.cloud import CloudTransport
from cloudtask.transports.memory import MemoryTransport
from tests.support.recording import PATH, RecordingTransport


def read(**given: Any) -> conf.Settings:
    with override_settings(CLOUDTASK=given):
        return conf.settings()


def refusal(given: Any) -> str:
    with (
        override_settings(CLOUDTASK=given),
        pytest.raises(ConfigurationError) as caught,
    ):
        conf.settings()
    return str(caught.value)


def test_everything_has_a_default() -> None:
    settings = read()
    assert settings.project is None
    assert settings.location is None
    assert settings.target == {"BACKEND": conf.APP_ENGINE_TARGET}
    assert settings.queues == {}
    assert settings.store == {"BACKEND": conf.DATABASE_STORE}
    assert settings.transport is None
    assert settings.trusted_modules == ()
    assert settings.max_age > timedelta(days=31)
    assert settings.max_body_size > settings.max_task_size


def test_the_setting_may_be_missing(settings: Any) -> None:
    if hasattr(settings, "CLOUDTASK"):
        del settings.CLOUDTASK
    assert conf.settings().queues == {}


def test_settings_are_frozen_and_read_once() -> None:
    with override_settings(CLOUDTASK={}):
        assert conf.settings() is conf.settings()
        with pytest.raises(AttributeError):
            conf.settings().project = "x"  # type: ignore[misc]


def test_settings_are_read_again_when_they_change() -> None:
    with override_settings(CLOUDTASK={"PROJECT": "one"}):
        assert conf.settings().project == "one"
        with override_settings(CLOUDTASK={"PROJECT": "two"}):
            assert conf.settings().project == "two"
        assert conf.settings().project == "one"
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
            assert conf.settings().signing_secrets == ("new", "old")


def test_no_secret_is_in_the_representation() -> None:
    with override_settings(SECRET_KEY="s3cret"):
        assert "s3cret" not in repr(conf.settings())


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("PROJEKT", "did you mean 'PROJECT'?"),
        ("project", "did you mean 'PROJECT'?"),
        ("QUEUE", "did you mean 'QUEUES'?"),
        ("TRANSPORTS", "did you mean 'TRANSPORT'?"),
        ("xyzzy", "known are "),
        (3, "known are "),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: Any, hint: str) -> None:
    text = refusal({key: "x"})
    assert f"CLOUDTASK has no key {key!r}" in text
    assert hint in text


WRONG: list[tuple[str, Any]] = [
    ("PROJECT", 7),
    ("PROJECT", "projects/p"),
    ("PROJECT", "my project"),
    ("LOCATION", ["europe-west1"]),
    ("LOCATION", "europe west"),
    ("LOCATION", "europe-west1\n"),
    ("TARGET", "cloudtask.targets.HttpTarget"),
    ("TARGET", {}),
    ("TARGET", {"BACKEND": 3}),
    ("TARGET", {"URL": "https://app.example"}),
    ("QUEUES", "default"),
    ("QUEUES", 5),
    ("QUEUES", ["default"]),
    ("QUEUES", None),
    ("QUEUES", {"under_score": {}}),
    ("QUEUES", {"": {}}),
    ("QUEUES", {"a" * 101: {}}),
    ("QUEUES", {3: {}}),
    ("QUEUES", {"default": "50/s"}),
    ("QUEUES", {"default": ["rate"]}),
    ("STORE", None),
    ("STORE", {"ALIAS": "default"}),
    ("TRANSPORT", "memory"),
    ("TRANSPORT", {}),
    ("PREFIX", 3),
    ("TRUSTED_MODULES", "app"),
    ("TRUSTED_MODULES", 5),
    ("TRUSTED_MODULES", None),
    ("TRUSTED_MODULES", [object]),
    ("MAX_BODY_SIZE", "1M"),
    ("MAX_BODY_SIZE", 0),
    ("MAX_BODY_SIZE", True),
    ("MAX_BODY_SIZE", 1.5),
    ("MAX_TASK_SIZE", -1),
    ("MAX_AGE", "32 days"),
    ("MAX_AGE", True),
    ("MAX_AGE", 0),
    ("MAX_AGE", timedelta(days=-1)),
    ("MAX_AGE", timedelta(days=100_000)),
    ("MAX_AGE", float("nan")),
    ("MAX_AGE", float("inf")),
    ("REPORT_RETRIES", 1),
    ("RETRY_CONFIG", "yes"),
    ("RETRY_CONFIG", 1),
    ("MASKED", "password"),
    ("KEEP_FAILED", None),
    ("RELAY_TOKEN", 12345),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_is_refused_under_its_key(key: str, value: Any) -> None:
    assert f"CLOUDTASK['{key}']" in refusal({key: value})


@pytest.mark.parametrize("given", [[], "x", 3])
def test_the_setting_must_be_a_dict(given: Any) -> None:
    assert "CLOUDTASK must be a dict" in refusal(given)


def test_durations_are_timedeltas_or_seconds() -> None:
    assert read(MAX_AGE=60).max_age == timedelta(minutes=1)
    assert read(MAX_AGE=timedelta(hours=1)).max_age == timedelta(hours=1)


# Queues.


def test_a_queue_is_declared_with_rate_concurrency_attempts_and_backoff() -> None:
    queue = read(
        QUEUES={
            "default": {},
            "plain": None,
            "mail": {
                "rate": "50/s",
                "concurrency": 20,
                "max_attempts": 10,
                "backoff": "1s..10m",
            },
        }
    ).queues["mail"]
    assert (queue.rate, queue.concurrency, queue.max_attempts) == (50, 20, 10)
    assert queue.backoff == Backoff(min=1, max=600)


@pytest.mark.parametrize(
    ("text", "per_second"),
    [("500/s", 500), ("1.5/s", 1.5), ("30 / m", 0.5), ("3600/h", 1), ("864/d", 0.01)],
)
def test_a_rate_is_a_number_per_unit(text: str, per_second: float) -> None:
    assert read(QUEUES={"q": {"rate": text}}).queues["q"].rate == per_second


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("100ms..1h", 0.1, 3600), ("0s..0s", 0, 0), (" 1.5s .. 2d ", 1.5, 172800)],
)
def test_a_backoff_is_a_range(text: str, low: float, high: float) -> None:
    queue = read(QUEUES={"q": {"backoff": text}}).queues["q"]
    assert queue.backoff == Backoff(min=low, max=high)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate", "50"),
        ("rate", 50),
        ("rate", "0/s"),
        ("rate", "-1/s"),
        ("rate", "501/s"),
        ("rate", "50/week"),
        ("concurrency", 0),
        ("concurrency", 5001),
        ("concurrency", "20"),
        ("concurrency", True),
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("backoff", "10s"),
        ("backoff", "10m..1s"),
        ("backoff", "fast..slow"),
        ("backoff", 5),
    ],
)
def test_a_wrong_queue_option_is_refused_with_its_place(key: str, value: Any) -> None:
    text = refusal({"QUEUES": {"mail": {key: value}}})
    assert f"CLOUDTASK['QUEUES']['mail']['{key}']" in text


def test_an_unknown_queue_option_is_refused_with_the_nearest() -> None:
    text = refusal({"QUEUES": {"mail": {"max_attemps": 3}}})
    assert "CLOUDTASK['QUEUES']['mail'] has no key 'max_attemps'" in text
    assert "did you mean 'max_attempts'?" in text


# djangae's settings.


def test_djangaes_settings_are_understood() -> None:
    with override_settings(
        CLOUD_TASKS_PROJECT_ID="older",
        CLOUD_TASKS_LOCATION="us-central1",
        CLOUD_TASKS_QUEUES=[
            {"name": "default"},
            {
                "name": "mail",
                "rate_per_second": 5,
                "rate_max_concurrent": 7,
                "retry_max_attempts": 3,
                "something_else": 1,
            },
        ],
    ):
        settings = read()
    assert (settings.project, settings.location) == ("older", "us-central1")
    mail_queue = settings.queues["mail"]
    assert (mail_queue.rate, mail_queue.concurrency) == (5, 7)
    assert mail_queue.max_attempts == 3
    assert set(settings.queues) == {"default", "mail"}


def test_ours_come_before_djangaes() -> None:
    with override_settings(
        CLOUD_TASKS_PROJECT_ID="older", CLOUD_TASKS_QUEUES=["not read"]
    ):
        settings = read(PROJECT="ours", QUEUES={"mine": {}})
    assert settings.project == "ours"
    assert set(settings.queues) == {"mine"}


@pytest.mark.parametrize("value", [["default"], [{"nam": "x"}], 3, [None]])
def test_wrong_queues_of_djangae_are_refused_by_their_name(value: Any) -> None:
    with override_settings(CLOUD_TASKS_QUEUES=value):
        assert "CLOUD_TASKS_QUEUES" in refusal({})


def test_djangaes_settings_are_read_again_when_they_change() -> None:
    with override_settings(CLOUD_TASKS_LOCATION="one"):
        assert conf.settings().location == "one"
    with override_settings(CLOUD_TASKS_LOCATION="two"):
        assert conf.settings().location == "two"


# Backends.


def test_the_transport_is_memory_in_tests() -> None:
    with override_settings(CLOUDTASK={}):
        assert isinstance(transport(), MemoryTransport)


def test_the_transport_is_the_cloud_outside_of_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(_TestState, "saved_data")
    with override_settings(CLOUDTASK={}):
        assert isinstance(transport(), CloudTransport)


# Django 6.1 wants the setting MAILERS, which Django 5.2 does not know.
@pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer")
def test_a_mail_backend_that_keeps_mails_makes_no_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(_TestState, "saved_data")
    with override_settings(CLOUDTASK={}):
        mail.send_mail("s", "b", "a@b.example", ["c@d.example"])
        assert mail.outbox
        assert isinstance(transport(), CloudTransport)


@pytest.mark.parametrize("fallbacks", [[""], ["old", ""], [b""], [None]])
def test_an_empty_key_is_refused(fallbacks: list[Any]) -> None:
    with (
        override_settings(SECRET_KEY_FALLBACKS=fallbacks),
        pytest.raises(ConfigurationError, match=r"SECRET_KEY_FALLBACKS\[\d\] is empty"),
    ):
        conf.settings()


def test_a_wrong_secret_is_not_shown() -> None:
    assert "s3cret" not in refusal({"RELAY_TOKEN": b"s3cret"})
    with override_settings(CLOUDTASK={"RELAY_TOKEN": "s3cret"}):
        assert "s3cret" not in repr(conf.settings())


def test_a_transport_that_is_set_is_used_in_tests_too() -> None:
    with override_settings(CLOUDTASK={"TRANSPORT": {"BACKEND": PATH}}):
        assert isinstance(transport(), RecordingTransport)
    cloud = {"TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT}}
    with override_settings(CLOUDTASK=cloud):
        assert isinstance(transport(), CloudTransport)


@pytest.mark.parametrize(
    "path", ["nowhere", "nowhere.at.All", "cloudtask.targets.NoTarget", "os.sep", ""]
)
def test_a_backend_that_cannot_be_imported_is_refused(path: str) -> None:
    with (
        override_settings(CLOUDTASK={"TRANSPORT": {"BACKEND": path}}),
        pytest.raises(ConfigurationError, match="TRANSPORT"),
    ):
        transport()


def test_an_unknown_option_of_a_backend_is_refused() -> None:
    given = {"TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT, "HOST": "x"}}
    with (
        override_settings(CLOUDTASK=given),
        pytest.raises(ConfigurationError, match=r"'TRANSPORT'.*no key 'HOST'"),
    ):
        transport()


# The emulator's host.


@pytest.mark.parametrize(
    ("google", "djangae", "expected"),
    [
        (None, None, None),
        ("g:1", None, "g:1"),
        (None, "d:1", "d:1"),
        ("g:1", "d:1", "g:1"),
        ("", "d:1", "d:1"),
        ("", "", None),
        ("http://g:1/", None, "g:1"),
    ],
)
def test_googles_variable_comes_before_djangaes(
    monkeypatch: pytest.MonkeyPatch,
    google: str | None,
    djangae: str | None,
    expected: str | None,
) -> None:
    for name, value in (
        ("CLOUD_TASKS_EMULATOR_HOST", google),
        ("TASKS_EMULATOR_HOST", djangae),
    ):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert conf.emulator_host() == expected
