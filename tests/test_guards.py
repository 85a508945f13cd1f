"""View decorators, the middleware, and what code may ask about its request."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from cloudtask import conf, environment
from cloudtask.decorators import (
    csrf_exempt_if_task,
    task_only,
    task_or_superuser_only,
)
from cloudtask.targets import guards
from tests.support import recording
from tests.support.site import Site
from tests.testapp import tasks


def seen(request: HttpRequest) -> JsonResponse:
    """The answers of `cloudtask.environment` inside a view."""
    return JsonResponse(
        {
            "is_in_task": environment.is_in_task(),
            "is_in_cron": environment.is_in_cron(),
            "name": environment.task_name(),
            "queue": environment.task_queue_name(),
            "retries": environment.task_retry_count(),
            "executions": environment.task_execution_count(),
        }
    )


def plain(request: HttpRequest) -> HttpResponse:
    """Answer."""
    return HttpResponse("in")


async def asynchronous(request: HttpRequest) -> HttpResponse:
    return HttpResponse("in")


urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("seen/", seen),
]
for kind, view in (("plain", plain), ("async", asynchronous)):
    urlpatterns += [
        path(f"{kind}/task/", task_only(view)),
        path(f"{kind}/superuser/", task_or_superuser_only(view)),
        path(f"{kind}/csrf/", csrf_exempt_if_task(view)),
        path(f"{kind}/inside/", task_or_superuser_only(csrf_exempt(view))),
        path(f"{kind}/outside/", csrf_exempt(task_or_superuser_only(view))),
    ]

KINDS = pytest.mark.parametrize("kind", ["plain", "async"])
TASK = {
    "X-CloudTasks-QueueName": "mail",
    "X-CloudTasks-TaskName": "t-1",
    "X-CloudTasks-TaskRetryCount": "2",
    "X-CloudTasks-TaskExecutionCount": "1",
}
SCHEDULER = {"X-CloudScheduler": "true"}


@pytest.fixture(autouse=True)
def _urls() -> Any:
    with override_settings(ROOT_URLCONF="tests.test_guards"):
        yield


@pytest.fixture
def delivery(site: Site) -> dict[str, str]:
    """The headers of a delivery that is trusted."""
    return {**TASK, "Authorization": f"Bearer {site.issuer.token()}"}


STRANGERS = {
    "nothing": {},
    "headers without a token": TASK,
    "app engine's headers": {"X-AppEngine-QueueName": "mail"},
    "a wrong token": {**TASK, "Authorization": "Bearer x.y.z"},
    "a scheduler without a token": SCHEDULER,
    "a scheduler with a wrong token": {**SCHEDULER, "Authorization": "Bearer x.y.z"},
}


@KINDS
def test_task_only_lets_deliveries_in(kind: str, delivery: dict[str, str]) -> None:
    assert Client().post(f"/{kind}/task/", headers=delivery).content == b"in"


@KINDS
@pytest.mark.parametrize("guard", ["task", "superuser", "csrf"])
def test_every_guard_lets_in_a_job_of_cloud_scheduler(
    site: Site, kind: str, guard: str
) -> None:
    job = {**SCHEDULER, "Authorization": f"Bearer {site.issuer.token()}"}
    client = Client(enforce_csrf_checks=guard == "csrf")
    assert client.post(f"/{kind}/{guard}/", headers=job).content == b"in"


@KINDS
@pytest.mark.parametrize("stranger", STRANGERS)
def test_task_only_keeps_strangers_out(site: Site, kind: str, stranger: str) -> None:
    answer = Client().post(f"/{kind}/task/", headers=STRANGERS[stranger])
    assert answer.status_code == 403


@KINDS
def test_guards_work_under_asgi(kind: str, delivery: dict[str, str]) -> None:
    async def statuses() -> list[int]:
        client = AsyncClient()
        found = [
            await client.post(f"/{kind}/task/", headers=delivery),
            await client.post(f"/{kind}/task/"),
            await client.post(f"/{kind}/superuser/", headers=delivery),
            await client.post(f"/{kind}/csrf/", headers=delivery),
        ]
        return [answer.status_code for answer in found]

    assert async_to_sync(statuses)() == [200, 403, 200, 200]


@KINDS
@pytest.mark.django_db
def test_task_or_superuser_only_lets_in_deliveries_and_active_superusers(
    kind: str, delivery: dict[str, str]
) -> None:
    def status(user: User | None = None, **headers: str) -> int:
        client = Client()
        if user is not None:
            client.force_login(user)
        return client.get(f"/{kind}/superuser/", headers=headers).status_code

    root = User.objects.create_superuser("root")
    staff = User.objects.create_user("staff", is_staff=True)
    retired = User.objects.create_superuser("retired", is_active=False)
    assert status(**delivery) == 200
    assert status(root) == 200
    assert status(staff) == 403
    assert status(retired) == 403
    assert status() == 403
    assert status(**TASK) == 403


@KINDS
@pytest.mark.django_db
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_another_site_can_not_post_with_the_session_of_a_superuser(
    kind: str, order: str, delivery: dict[str, str]
) -> None:
    """The view is exempt for the queues, which have no token of a form."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    url = f"/{kind}/{order}/"
    assert client.post(url).status_code == 403
    assert client.post(url, headers=TASK).status_code == 403
    assert client.get(url).status_code == 200
    assert client.post(url, headers=delivery).status_code == 200
    client.cookies["csrftoken"] = "a" * 32
    assert client.post(url, {"csrfmiddlewaretoken": "a" * 32}).status_code == 200


@pytest.mark.django_db
def test_task_or_superuser_only_works_without_users(
    delivery: dict[str, str],
) -> None:
    with override_settings(MIDDLEWARE=[]):
        assert Client().get("/plain/superuser/").status_code == 403
        assert Client().get("/plain/superuser/", headers=delivery).status_code == 200


@KINDS
def test_csrf_exempt_if_task_checks_everybody_else(
    kind: str, delivery: dict[str, str]
) -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.post(f"/{kind}/csrf/", headers=delivery).content == b"in"
    assert client.get(f"/{kind}/csrf/").content == b"in"
    for headers in STRANGERS.values():
        assert client.post(f"/{kind}/csrf/", headers=headers).status_code == 403


@KINDS
def test_csrf_exempt_if_task_takes_the_token_of_a_form(site: Site, kind: str) -> None:
    client = Client(enforce_csrf_checks=True)
    secret = "a" * 32
    client.cookies["csrftoken"] = secret
    form = {"csrfmiddlewaretoken": secret}
    assert client.post(f"/{kind}/csrf/", form).status_code == 200


@pytest.mark.parametrize(
    "guard", [task_only, task_or_superuser_only, csrf_exempt_if_task]
)
def test_a_guarded_view_is_still_its_view(guard: Any) -> None:
    guarded = guard(plain)
    assert (guarded.__name__, guarded.__doc__) == ("plain", "Answer.")
    assert guarded.__module__ == __name__
    assert guards.iscoroutinefunction(guard(asynchronous))  # type: ignore[attr-defined]


# The environment.

NOTHING = {
    "is_in_task": False,
    "is_in_cron": False,
    "name": None,
    "queue": None,
    "retries": None,
    "executions": None,
}
MIDDLEWARE = override_settings(
    MIDDLEWARE=["cloudtask.middleware.task_environment_middleware"]
)


def test_without_the_middleware_nothing_is_known(delivery: dict[str, str]) -> None:
    assert Client().post("/seen/", headers=delivery).json() == NOTHING


def test_in_a_delivery_the_headers_are_known(delivery: dict[str, str]) -> None:
    with MIDDLEWARE:
        assert Client().post("/seen/", headers=delivery).json() == {
            "is_in_task": True,
            "is_in_cron": False,
            "name": "t-1",
            "queue": "mail",
            "retries": 2,
            "executions": 1,
        }
        assert Client().post("/seen/").json() == NOTHING
    assert not environment.is_in_task()


@pytest.mark.parametrize("stranger", STRANGERS)
def test_the_headers_of_strangers_are_not_believed(site: Site, stranger: str) -> None:
    headers = {**STRANGERS[stranger], "X-AppEngine-Cron": "true"}
    with MIDDLEWARE:
        assert Client().post("/seen/", headers=headers).json() == NOTHING


def test_cron_is_known_on_app_engine_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"X-AppEngine-Cron": "true"}
    with MIDDLEWARE:
        assert not Client().get("/seen/", headers=headers).json()["is_in_cron"]
        monkeypatch.setenv("GAE_ENV", "standard")
        assert Client().get("/seen/", headers=headers).json()["is_in_cron"]
        assert not Client().get("/seen/").json()["is_in_cron"]


def test_a_job_of_cloud_scheduler_is_a_cron_job(site: Site) -> None:
    job = {**SCHEDULER, "Authorization": f"Bearer {site.issuer.token()}"}
    with MIDDLEWARE:
        assert Client().post("/seen/", headers=job).json()["is_in_cron"]
        assert not Client().post("/seen/", headers=SCHEDULER).json()["is_in_cron"]


def test_the_environment_is_known_under_asgi(delivery: dict[str, str]) -> None:
    async def post() -> Any:
        return await AsyncClient().post("/seen/", headers=delivery)

    with MIDDLEWARE:
        assert async_to_sync(post)().json()["name"] == "t-1"


def test_inside_a_task_its_context_answers(site: Site) -> None:
    tasks.see_environment.using(queue="mail").defer()
    headers = {"X-CloudTasks-TaskRetryCount": "1"}
    assert site.deliver(headers=headers).status_code == 200
    (found,) = tasks.calls
    assert found["is_in_task"] is True
    assert (found["queue"], found["retries"]) == ("mail", 1)
    assert found["name"]
    assert not environment.is_in_task()


# Beside an emulator.


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:8123")
    given = {
        "PROJECT": "p",
        "LOCATION": "l",
        "TARGET": {"BACKEND": conf.APP_ENGINE_TARGET},
        "TRANSPORT": {"BACKEND": recording.PATH},
    }
    with override_settings(CLOUDTASK=given):
        yield


def post_beside_emulator(kind: str, body: bytes) -> int:
    headers = {"X-AppEngine-QueueName": "mail"}
    sent = {"content_type": "application/octet-stream", "headers": headers}
    return Client().post(f"/{kind}/task/", body, **sent).status_code


@KINDS
def test_beside_an_emulator_the_signature_of_the_body_counts(
    emulated: Any, kind: str
) -> None:
    tasks.note.using(url=f"/{kind}/task/").defer()
    body = recording.bodies()[-1]
    assert post_beside_emulator(kind, body) == 200
    for forged in (b"", b"{}", body[:-1], body[:-1] + b"x"):
        assert post_beside_emulator(kind, forged) == 403
    unnamed = Client().post(f"/{kind}/task/", body, "application/octet-stream")
    assert unnamed.status_code == 403


def test_beside_an_emulator_no_cron_job_is_believed(emulated: Any) -> None:
    headers = {"X-AppEngine-QueueName": "mail", **SCHEDULER}
    answer = Client().post("/plain/task/", headers=headers)
    assert answer.status_code == 403
