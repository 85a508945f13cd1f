"""Which request Cloud Tasks must make, and whom an App Engine target believes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.test import Client, RequestFactory, override_settings
from django.urls import get_script_prefix, set_script_prefix
from django.utils import translation

from cloudtask import conf, envelope
from cloudtask.exceptions import ConfigurationError, EnqueueError, UntrustedRequest
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.targets import AppEngineTarget, HttpTarget, handler_path, target
from tests.support import recording
from tests.testapp import tasks

PATH = "/_cloudtask/run/tests.testapp.tasks.note"
URL = "https://app.example"
ACCOUNT = "tasks@p.iam.gserviceaccount.com"
ENVIRON = ("GAE_ENV", "GAE_INSTANCE", "GAE_SERVICE", "GAE_VERSION")


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRON, "CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def on_app_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAE_ENV", "standard")
    monkeypatch.setenv("GAE_SERVICE", "web")
    monkeypatch.setenv("GAE_VERSION", "v7")


def settings(**target: Any) -> Any:
    return override_settings(
        CLOUDTASK={
            "LOCATION": "l",
            "PROJECT": "p",
            "TRANSPORT": {"BACKEND": recording.PATH},
            "TARGET": {"BACKEND": conf.APP_ENGINE_TARGET, **target},
        }
    )


def message(**options: Any) -> Message:
    with settings():
        tasks.note.using(**options).defer()
    return recording.sent[-1]


def made(**options: Any) -> Message:
    """A message that no target has seen yet."""
    return replace(message(), options=Options(**options))


def http(**options: Any) -> HttpTarget:
    return HttpTarget({"URL": URL, "SERVICE_ACCOUNT": ACCOUNT, **options})


# Requests.


def test_an_http_target_asks_for_a_token_of_its_account_for_its_url() -> None:
    dispatch = http().request_for(message())
    assert dispatch.url == URL + PATH
    assert dispatch.service_account == ACCOUNT
    assert dispatch.audience == URL
    assert dispatch.headers == {"Content-Type": "application/octet-stream"}


def test_the_last_slash_of_the_url_does_not_matter() -> None:
    dispatch = http(URL=URL + "/").request_for(message())
    assert (dispatch.url, dispatch.audience) == (URL + PATH, URL)


OURS = [
    ("/tasks/other/", URL + "/tasks/other/"),
    ("/hook?next=https://a.example/", URL + "/hook?next=https://a.example/"),
    (URL + "/x", URL + "/x"),
    ("https://APP.example:443/x", "https://APP.example:443/x"),
]


@pytest.mark.parametrize(("url", "expected"), OURS)
def test_a_call_may_go_to_another_path(url: str, expected: str) -> None:
    dispatch = http(AUDIENCE="mine").request_for(made(url=url))
    assert (dispatch.url, dispatch.audience) == (expected, "mine")


@pytest.mark.parametrize(
    ("entry", "url", "audience"),
    [
        ("else.example", "https://else.example/x", "https://else.example"),
        ("Else.Example", "https://ELSE.example/x", "https://else.example"),
        ("else.example", "https://else.example:8443/", "https://else.example:8443"),
        ("else.example:8443", "https://else.example:8443", "https://else.example:8443"),
        ("https://else.example", "https://else.example:443/x", "https://else.example"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/x", "http://127.0.0.1:8000"),
        (".else.example", "https://a.b.else.example", "https://a.b.else.example"),
        (".else.example", "https://else.example?a", "https://else.example"),
        ("[::1]:80", "http://[0:0::1]/", "http://[::1]"),
        ("app.example", "http://app.example/", "http://app.example"),
    ],
)
def test_a_call_to_another_origin_has_a_token_for_that_origin(
    entry: str, url: str, audience: str
) -> None:
    with override_settings(CLOUDTASK={"ALLOWED_URLS": [entry]}):
        dispatch = http().request_for(made(url=url))
    assert (dispatch.url, dispatch.audience) == (url, audience)


STRANGE = [
    "https://else.example/x",
    "http://app.example/x",
    "https://app.example:8443/x",
    "https://app.example.evil.example/",
    "https://evil-app.example/",
    "https://listed.example:8443/",
    "https://sub.listed.example/",
    "https://app.example./x",
    "https://app.example@evil.example/",
    "https://user:s3cret@app.example/",
    "https://app.example\\@evil.example/",
    "https://evil.example#@app.example/",
    "https://evil.example?@app.example/",
    "https:///evil.example",
    "https://",
    "https:/app.example",
    "https:app.example",
    "HTTPS://app.example/",
    "//evil.example/x",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:1",
    "ftp://app.example/",
    "app.example",
    "",
    "https://app.example:0/",
    "https://app.example:99999/",
    "https://app.example:/",
    "https://app.example:+443/",
    "https://app.example:\uff14\uff14\uff13/",
    "https://[::1",
    "https://[::1]evil.example/",
    "https://[::ffff:127.0.0.1%25eth0]/",
    "https://app\u3002example/",
    "https://\uff41pp.example/",
    "https://bücher.example/",
    "https://app.example\r\nX: y/",
    "https://app.example/\u2028x",
    "https://app.example/\x85",
    "https://app.example\t/",
    " https://app.example/",
    "https://app%2eexample/",
    "https://-app.example/",
    "https://app..example/",
]


@pytest.mark.parametrize("url", STRANGE)
def test_an_address_that_no_setting_names_gets_no_call(url: str) -> None:
    allowed = ["https://listed.example", "partner.example"]
    with (
        override_settings(CLOUDTASK={"ALLOWED_URLS": allowed}),
        pytest.raises(EnqueueError, match="its url") as caught,
    ):
        http().request_for(made(url=url))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.example", "a/b", "https://a.example/x", "a@b", "é.example", "a:b"],
)
def test_an_entry_that_is_no_host_is_a_configuration_error(entry: str) -> None:
    with (
        override_settings(CLOUDTASK={"ALLOWED_URLS": [entry]}),
        pytest.raises(ConfigurationError, match="ALLOWED_URLS"),
    ):
        conf.settings()


def test_an_address_is_refused_at_defer() -> None:
    target = {
        "BACKEND": "cloudtask.targets.HttpTarget",
        "URL": URL,
        "SERVICE_ACCOUNT": ACCOUNT,
    }
    with settings(**target), pytest.raises(EnqueueError, match="ALLOWED_URLS"):
        tasks.note.using(url="https://else.example/x").defer()
    assert recording.sent == []


def test_headers_go_along() -> None:
    dispatch = http().request_for(message(headers={"X-Trace": "1"}))
    assert dispatch.headers["X-Trace"] == "1"
    assert "Content-Type" in dispatch.headers


def test_without_verification_no_account_is_needed() -> None:
    dispatch = HttpTarget({"URL": URL, "VERIFY": False}).request_for(message())
    assert dispatch.service_account is None
    assert dispatch.audience is None


def test_an_app_engine_target_stays_with_the_running_version(
    on_app_engine: None,
) -> None:
    dispatch = AppEngineTarget({}).request_for(message())
    assert dispatch.relative_uri == PATH
    assert (dispatch.service, dispatch.version) == ("web", "v7")
    assert dispatch.instance is None


@pytest.mark.parametrize(
    ("options", "service", "version", "instance"),
    [
        ({"service": "worker"}, "worker", None, None),
        ({"service": "web"}, "web", "v7", None),
        ({"version": "v6"}, "web", "v6", None),
        ({"service": "worker", "version": "v1"}, "worker", "v1", None),
        ({"instance": "3"}, "web", "v7", "3"),
    ],
)
def test_a_call_may_go_to_another_service_version_or_instance(
    on_app_engine: None,
    options: dict[str, str],
    service: str,
    version: str | None,
    instance: str | None,
) -> None:
    dispatch = AppEngineTarget({}).request_for(message(**options))
    assert (dispatch.service, dispatch.version) == (service, version)
    assert dispatch.instance == instance


def test_the_running_version_is_not_asked_of_another_service(
    on_app_engine: None,
) -> None:
    dispatch = AppEngineTarget({"SERVICE": "worker"}).request_for(message())
    assert (dispatch.service, dispatch.version) == ("worker", None)
    dispatch = AppEngineTarget({"VERSION": "v1"}).request_for(message())
    assert (dispatch.service, dispatch.version) == ("web", "v1")


def test_an_empty_version_leaves_the_choice_to_app_engine(on_app_engine: None) -> None:
    dispatch = AppEngineTarget({"VERSION": ""}).request_for(message())
    assert (dispatch.service, dispatch.version or None) == ("web", None)


def test_elsewhere_app_engine_decides() -> None:
    dispatch = AppEngineTarget({}).request_for(message())
    assert (dispatch.service, dispatch.version) == (None, None)


def test_app_engine_takes_no_addresses() -> None:
    with pytest.raises(EnqueueError, match=r"'default'.*path.*https://x.example"):
        AppEngineTarget({}).request_for(made(url="https://x.example/"))


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("tasks", "/tasks/run/a.b"),
        ("/tasks/", "/tasks/run/a.b"),
        ("/deep/er", "/deep/er/run/a.b"),
        ("", "/run/a.b"),
        ("/", "/run/a.b"),
    ],
)
def test_a_prefix_stands_for_the_urlconf(prefix: str, path: str) -> None:
    with override_settings(CLOUDTASK={"PREFIX": prefix}, ROOT_URLCONF="tests.no_urls"):
        assert handler_path("a.b") == path


def test_a_handler_without_a_url_is_a_configuration_error() -> None:
    with (
        override_settings(ROOT_URLCONF="tests.testapp.no_urls"),
        pytest.raises(ConfigurationError, match=r"include\('cloudtask.urls'\)"),
    ):
        handler_path("a.b")


# Options.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "URL"),
        ({"URL": "app.example"}, "https://app.example"),
        ({"URL": "ftp://app.example"}, "URL"),
        ({"URL": "https://"}, "URL"),
        ({"URL": 7}, "must be str, not 7"),
        ({"URL": URL}, "SERVICE_ACCOUNT"),
        ({"URL": URL, "SERVICE_ACCOUNT": ""}, "SERVICE_ACCOUNT"),
        ({"URL": URL, "SERVICE_ACCOUNT": ACCOUNT, "VERIFY": "False"}, "must be bool"),
        ({"URL": URL, "SERVICE_ACCOUNT": ACCOUNT, "VERIFY": 0}, "must be bool"),
        ({"URL": URL, "SERVICE_ACOUNT": ACCOUNT}, "did you mean 'SERVICE_ACCOUNT'"),
    ],
)
def test_a_wrong_http_target_says_what_to_write(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        HttpTarget(options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ON_APP_ENGINE": "false"}, "must be bool"),
        ({"VERIFY": None, "SERVCE": "x"}, "did you mean 'SERVICE'"),
        ({"SERVICE": 1}, "must be str"),
    ],
)
def test_a_wrong_app_engine_target_says_what_to_write(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        AppEngineTarget(options)


def test_the_target_is_made_once_per_settings() -> None:
    with settings():
        first = target()
        assert target() is first
    with settings(SERVICE="x"):
        assert target() is not first


# Trust on App Engine.

TASK_HEADERS = {"X-AppEngine-QueueName": "default", "X-AppEngine-TaskName": "t"}


def post(headers: dict[str, str]) -> int:
    tasks.note.defer()
    client = Client()
    body = envelope.seal(recording.sent[-1])
    kind = "application/octet-stream"
    return client.post(PATH, body, content_type=kind, headers=headers).status_code


def test_app_engines_headers_are_believed_on_app_engine(on_app_engine: None) -> None:
    with settings():
        assert post(TASK_HEADERS) == 200
        assert post({}) == 403
        assert post({"X-CloudTasks-QueueName": "default"}) == 403
        assert post({"X-AppEngine-QueueName": ""}) == 403
    assert len(tasks.calls) == 1


@pytest.mark.parametrize("name", ["X-AppEngine-QueueName", "x-appengine-queuename"])
def test_app_engines_headers_are_not_believed_elsewhere(name: str) -> None:
    with settings():
        assert post({**TASK_HEADERS, name: "default"}) == 403
    assert tasks.calls == []


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"GAE_ENV": "standard"}, 200),
        ({"GAE_ENV": "localdev"}, 403),
        ({"GAE_ENV": ""}, 403),
        ({"GAE_INSTANCE": "i", "GAE_SERVICE": "s"}, 200),
        ({"GAE_SERVICE": "s"}, 403),
        ({"GAE_VERSION": "v"}, 403),
    ],
)
def test_the_environment_tells_what_app_engine_is(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], status: int
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with settings():
        assert post(TASK_HEADERS) == status


def test_a_setting_may_overrule_the_environment(on_app_engine: None) -> None:
    with settings(ON_APP_ENGINE=False):
        assert post(TASK_HEADERS) == 403
    with settings(ON_APP_ENGINE=None):
        assert post(TASK_HEADERS) == 200


@pytest.mark.parametrize("name", ["CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST"])
def test_beside_an_emulator_the_signature_alone_guards(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "127.0.0.1:8123")
    with settings():
        assert post(TASK_HEADERS) == 200
        assert post({}) == 403


def test_verification_can_be_switched_off() -> None:
    with settings(VERIFY=False):
        assert post({}) == 200


def test_a_refusal_names_no_secret() -> None:
    request = RequestFactory().post(PATH, headers={"Authorization": "Bearer s3cret"})
    with pytest.raises(UntrustedRequest) as caught:
        http().verify(request)
    assert "s3cret" not in str(caught.value)


# The path of the handler.


@pytest.mark.urls("tests.urls_i18n")
def test_the_path_is_that_of_the_default_language_whatever_is_active() -> None:
    with translation.override("de"):
        first = handler_path("app.tasks.f")
    with translation.override("en"):
        paths = {handler_path("app.tasks.f"), handler_path("app.tasks.g")[:-1] + "f"}
    assert paths == {first} == {"/en-us/_cloudtask/run/app.tasks.f"}


def test_the_path_has_the_prefix_of_the_request_that_asks() -> None:
    before = get_script_prefix()
    try:
        paths = []
        for prefix in ("/a/", "/b/", "/a/"):
            set_script_prefix(prefix)
            paths.append(handler_path("app.tasks.f"))
    finally:
        set_script_prefix(before)
    assert [path[:3] for path in paths] == ["/a/", "/b/", "/a/"]
    assert handler_path("app.tasks.f") == "/_cloudtask/run/app.tasks.f"


@pytest.mark.parametrize("rest", ["?a=1", "#part", "/base?a=1", "/?"])
def test_an_address_of_the_service_has_no_query_and_no_fragment(rest: str) -> None:
    with pytest.raises(ConfigurationError, match="the address of this service"):
        HttpTarget({"URL": URL + rest, "SERVICE_ACCOUNT": "a@b"})
