"""via="http": the real URL, middleware, verification and headers."""

from __future__ import annotations

import pytest
from django.http import HttpResponse
from django.test import Client, override_settings

from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import ConfigurationError
from cloudtask.targets import oidc, target
from cloudtask.testing import Faults, Undelivered, crash_at, queued, run_queued
from tests.testing import tasks
from tests.testing.conftest import balance
from tests.testing.tasks import seen

requests = []


def recording(get_response):
    def middleware(request):
        requests.append(request)
        response = get_response(request)
        request.answer = response.status_code
        return response

    return middleware


def refusing(get_response):
    return lambda request: HttpResponse("closed", status=418)


def breaking(get_response):
    def middleware(request):
        raise tasks.Trouble("in the middleware")

    return middleware


def https(**target):
    return {
        "TARGET": {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": "https://app.example",
            "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
            **target,
        }
    }


TARGETS = [
    {},
    https(),
    https(AUDIENCE="another"),
    https(ISSUER="http://127.0.0.1:8123"),
]
TARGET_NAMES = ["App Engine", "OIDC", "OIDC with an audience", "OIDC of an emulator"]


@pytest.fixture(autouse=True)
def _recorded(settings):
    requests.clear()
    settings.MIDDLEWARE = [f"{__name__}.recording", *settings.MIDDLEWARE]


def through(settings, name):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{name}"]


@pytest.mark.parametrize("given", TARGETS, ids=TARGET_NAMES)
def test_a_delivery_takes_the_url_and_the_middleware_and_is_trusted(given):
    with override_settings(CLOUDTASK=given):
        tasks.see.defer({1: 2})
        report = run_queued(via="http")
    assert seen == [(({1: 2},), {})]
    (request,) = requests
    assert request.path == f"/_cloudtask/run/{tasks.see.path}"
    assert (request.is_secure(), request.answer) == (True, 200)
    assert report.ran[0].outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("given", TARGETS, ids=TARGET_NAMES)
def test_strangers_are_refused_before_and_after_and_meanwhile(given):
    def strange():
        answer = Client().post(
            f"/_cloudtask/run/{tasks.see.path}",
            b"x",
            content_type="application/octet-stream",
            headers={"Authorization": "Bearer a.b.c"},
        )
        return answer.status_code

    with override_settings(CLOUDTASK=given):
        tasks.ask_a_stranger.strange = strange  # type: ignore[attr-defined]
        tasks.ask_a_stranger.defer()
        assert strange() == 403
        run_queued(via="http")
        assert strange() == 403
    assert seen == [403]


def test_trust_is_put_back_after_a_crash_too():
    tasks.see.defer()
    run_queued(via="http", faults=crash_at("execute.before_call"))
    assert len(seen) == 1
    assert target().on_app_engine is False  # type: ignore[attr-defined]
    with override_settings(CLOUDTASK=https()):
        tasks.see.defer()
        run_queued(via="http", faults=crash_at("execute.before_call"))
        assert target().certificates is oidc.certificates  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "prefix"), [({}, "X-AppEngine-"), (https(), "X-CloudTasks-")]
)
def test_the_headers_are_those_of_the_service(given, prefix):
    with override_settings(CLOUDTASK=given):
        tasks.mail.using(headers={"X-Mine": "1"}, countdown=60).defer(7)
        (call,) = queued()
        run_queued(via="http")
    headers = requests[0].headers
    assert headers[f"{prefix}QueueName"] == "mail"
    assert headers[f"{prefix}TaskName"] == call.name
    assert headers[f"{prefix}TaskRetryCount"] == "0"
    assert headers[f"{prefix}TaskExecutionCount"] == "0"
    assert float(headers[f"{prefix}TaskETA"]) == pytest.approx(call.eta.timestamp())
    assert headers["X-Mine"] == "1"
    assert f"{prefix}TaskPreviousResponse" not in headers


@pytest.mark.parametrize(
    ("given", "prefix", "executions", "reason"),
    [
        ({}, "X-AppEngine-", ["0", "1", "2"], "App Error"),
        (https(), "X-CloudTasks-", ["0", "0", "0"], None),
    ],
)
def test_retries_say_so(given, prefix, executions, reason):
    with override_settings(CLOUDTASK=given):
        tasks.stumble.defer(2)
        report = run_queued(via="http", errors="retry")
    headers = [request.headers for request in requests]
    assert [h[f"{prefix}TaskRetryCount"] for h in headers] == ["0", "1", "2"]
    assert [h[f"{prefix}TaskExecutionCount"] for h in headers] == executions
    assert headers[2][f"{prefix}TaskPreviousResponse"] == "500"
    assert headers[2].get(f"{prefix}TaskRetryReason") == reason
    assert [attempt for _, attempt, _ in seen] == [1, 2, 3]
    assert len(report.retried) == 2


def test_the_context_is_the_same_as_without_http():
    tasks.see_context.using(countdown=60).defer()
    run_queued(via="http")
    tasks.see_context.using(countdown=60).defer()
    run_queued()
    one, two = seen
    assert (one.attempt, one.retries, one.executions) == (1, 0, 0)
    assert (two.attempt, two.retries, two.executions) == (1, 0, 0)
    assert one.due - one.created == pytest.approx(two.due - two.created)


def test_a_failing_task_fails_the_test_with_its_own_error():
    tasks.fail.defer("over http")
    with pytest.raises(tasks.Trouble, match="over http"):
        run_queued(via="http")
    assert requests[0].answer == 500
    assert len(queued()) == 1


def test_failures_are_collected():
    tasks.fail.defer()
    tasks.see.defer()
    report = run_queued(via="http", errors="collect")
    assert (len(report.ran), len(report.failed)) == (1, 1)


@pytest.mark.django_db
def test_retries_end_as_in_production():
    from cloudtask.models import FailedTask

    tasks.stumble.defer(99)
    report = run_queued(via="http", errors="retry")
    assert [request.answer for request in requests] == [500, 500, 500, 500, 200]
    assert report.failed[0].outcome is Outcome.EXHAUSTED
    assert FailedTask.objects.count() == 1


def test_an_answer_that_settles_nothing_fails_the_test(settings):
    through(settings, "refusing")
    tasks.see.defer()
    with pytest.raises(Undelivered, match=r"answered 418 'closed'"):
        run_queued(via="http")
    assert seen == []


def test_an_error_of_a_middleware_fails_the_test(settings):
    through(settings, "breaking")
    tasks.see.defer()
    with pytest.raises(tasks.Trouble, match="in the middleware"):
        run_queued(via="http")


@override_settings(ROOT_URLCONF="tests.testing.no_urls")
def test_a_urlconf_without_the_handler_is_told():
    tasks.see.using(transactional=False).defer()
    with pytest.raises(ConfigurationError, match="no URL"):
        run_queued(via="http")


def test_a_handler_elsewhere_is_told(settings):
    settings.CLOUDTASK = {"PREFIX": "elsewhere"}
    tasks.see.defer()
    with pytest.raises(Undelivered, match="answered 404"):
        run_queued(via="http")


@pytest.mark.parametrize("fault", ["duplicate", "concurrent", "crash", "lose_ack"])
def test_faults_strike_there_too(account, fault):
    tasks.pay_once.defer(account.pk, 10)
    report = run_queued(via="http", faults=Faults(**{fault: True}))
    assert (balance(account), len(report)) == (10, 2)


@pytest.mark.django_db
def test_a_failing_queue_delays_and_loses_nothing_there_too(account):
    tasks.pass_on_once.defer(account.pk, 10)
    tasks.ask_again.defer(2)
    run_queued(via="http", faults=Faults(enqueue_errors=True))
    assert balance(account) == 10
    assert queued() == []


def test_an_asynchronous_task_runs_there_too():
    tasks.asynchronous.defer(1)
    run_queued(via="http")
    assert seen == [("async", 1)]
