"""CloudTransport through Google's own client, against servers in this process."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from django.test import override_settings

from cloudtask import call, envelope, quotas
from cloudtask.development import DEFAULT_URL
from cloudtask.emulator import Emulator
from cloudtask.exceptions import (
    ConfigurationError,
    DuplicateTask,
    EnqueueError,
    EnqueueUnavailable,
    PayloadTooLarge,
    QueueNotFound,
)
from cloudtask.options import Options
from cloudtask.transports import Transport, cloud, transport
from cloudtask.transports.cloud import CloudTransport, requests
from cloudtask.transports.cloud.client import clients
from tests.support.service import Refuse, Service
from tests.testapp.tasks import note, small_note
from tests.transports.conftest import CLOUD
from tests.transports.contract import Names, TransportContract, message

Code = grpc.StatusCode
QUEUES = tuple(f"projects/p/locations/l/queues/{q}" for q in ("default", "mail"))


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def client(service: Service, passing: Time) -> CloudTransport:
    return CloudTransport({}, sleep=passing.sleep, clock=passing)


# The lowest google-cloud-tasks that is supported, 2.16, knows neither.
with_batches = pytest.mark.skipif(
    not requests.client_knows_batches(), reason="this client knows no batches"
)
with_policies = pytest.mark.skipif(
    not requests.client_knows_policies(), reason="this client knows no policies"
)


class TestAgainstAServer(TransportContract):
    @pytest.fixture
    def transport(self, client: CloudTransport) -> Transport:
        return client

    @pytest.fixture
    def names(self, service: Service) -> Names:
        return service.waiting


class TestAgainstAServerWithoutBatches(TestAgainstAServer):
    @pytest.fixture(autouse=True)
    def _without(self, service: Service) -> None:
        service.batch = Refuse(Code.UNIMPLEMENTED, "Method not found!")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(queues=QUEUES) as emulator:
        yield emulator


class TestAgainstTheEmulator(TransportContract):
    @pytest.fixture
    def transport(
        self,
        emulator: Emulator,
        cloud_settings: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Transport:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.address)
        emulator.reset()
        return CloudTransport({})

    @pytest.fixture
    def names(self, emulator: Emulator) -> Names:
        return lambda queue: [
            task.name.rpartition("/")[2] for task in emulator.tasks(queue)
        ]


# The request.


def test_the_request_carries_the_sealed_message_to_the_handler(
    client: CloudTransport, service: Service
) -> None:
    sent = message(7)
    client.send(sent)
    (task,) = service.tasks.values()
    assert task.name == f"projects/p/locations/l/queues/default/tasks/{sent.name}"
    http = task.http_request
    # Beside an emulator the handler is on this machine, whatever production has.
    assert http.url == f"{DEFAULT_URL}/_cloudtask/run/tests.testapp.tasks.note"
    assert http.oidc_token.service_account_email == "tasks@p.iam.gserviceaccount.com"
    assert http.oidc_token.audience == "https://app.example"
    assert http.headers["Content-Type"] == "application/octet-stream"
    assert envelope.unseal(http.body, now=time.time()).payload == b"[[7],{}]"
    assert abs(task.schedule_time.ToMicroseconds() / 1e6 - (sent.eta or 0)) < 0.001


def test_a_call_without_an_eta_has_no_schedule(
    client: CloudTransport, service: Service
) -> None:
    client.send(message(eta=None))
    (task,) = service.tasks.values()
    assert not task.HasField("schedule_time")
    assert not task.HasField("dispatch_deadline")
    assert "retry_config" not in str(task)


def test_an_older_client_sends_what_it_knows_of_the_options(
    client: CloudTransport, service: Service
) -> None:
    options = Options(timeout=60, max_attempts=4)
    client.send(message(options=options))
    assert client.send_many([message(n, options=options) for n in range(3)])
    deadlines = [t.dispatch_deadline.ToSeconds() for t in service.tasks.values()]
    assert deadlines == [60] * 4


@with_policies
def test_options_become_the_policy_of_the_task(
    client: CloudTransport, service: Service
) -> None:
    from cloudtask import Backoff

    options = Options(timeout=60, backoff=Backoff(1, 100, 3), max_attempts=4)
    client.send(message(options=options))
    (task,) = service.tasks.values()
    assert task.dispatch_deadline.ToSeconds() == 60
    assert task.retry_config.min_backoff.ToSeconds() == 1
    assert task.retry_config.max_backoff.ToSeconds() == 100
    assert task.retry_config.max_doublings == 3
    assert task.retry_config.max_attempts == -1  # the handler counts
    with override_settings(CLOUDTASK={**CLOUD, "RETRY_CONFIG": False}):
        client.send(message(options=options, queue="mail"))
    assert not list(service.tasks.values())[1].HasField("retry_config")


def test_an_app_engine_target_routes_by_service_version_and_instance(
    client: CloudTransport, service: Service
) -> None:
    target = {"BACKEND": "cloudtask.targets.AppEngineTarget"}
    options = Options(service="worker", version="v1", instance="2")
    with override_settings(CLOUDTASK={**CLOUD, "TARGET": target}):
        client.send(message(options=options))
    (task,) = service.tasks.values()
    request = task.app_engine_http_request
    assert request.relative_uri == "/_cloudtask/run/tests.testapp.tasks.note"
    routing = request.app_engine_routing
    assert (routing.service, routing.version) == ("worker", "v1")
    assert routing.instance == "2"


def test_a_task_that_the_service_would_refuse_as_too_large_is_not_sent(
    client: CloudTransport, service: Service
) -> None:
    big = message(payload=os.urandom(quotas.TASK))
    with pytest.raises(
        PayloadTooLarge, match=r"tests\.testapp\.tasks\.note.*'default'"
    ):
        client.send(big)
    errors = client.send_many([message(), big, message()])
    assert [type(e) for e in errors] == [type(None), PayloadTooLarge, type(None)]
    assert len(service.tasks) == 2


# Errors of the service.


@pytest.mark.parametrize(
    ("refusal", "error", "hint"),
    [
        (Refuse(Code.NOT_FOUND, "Queue does not exist."), QueueNotFound, "gcloud"),
        (
            Refuse(Code.FAILED_PRECONDITION, "Queue does not exist. (just created?)"),
            QueueNotFound,
            "--project=p --location=l`; a new queue takes a minute to work",
        ),
        (Refuse(Code.FAILED_PRECONDITION, "Other"), EnqueueError, "Other"),
        (
            Refuse(Code.INVALID_ARGUMENT, "Task size too large"),
            PayloadTooLarge,
            "too large",
        ),
        (Refuse(Code.INVALID_ARGUMENT, "Bad name"), EnqueueError, "Bad name"),
        (
            Refuse(Code.PERMISSION_DENIED, "No."),
            EnqueueError,
            "roles/cloudtasks.enqueuer",
        ),
        (Refuse(Code.UNAUTHENTICATED, "No."), EnqueueError, "account"),
        (Refuse(Code.UNAVAILABLE, "down"), EnqueueUnavailable, "Trying again"),
        (Refuse(Code.DEADLINE_EXCEEDED, "slow"), EnqueueUnavailable, "Trying again"),
        (Refuse(Code.RESOURCE_EXHAUSTED, "quota"), EnqueueUnavailable, "quota"),
        (Refuse(Code.INTERNAL, "broken"), EnqueueUnavailable, "broken"),
        (Refuse(Code.UNKNOWN, "Stream removed"), EnqueueUnavailable, "Stream removed"),
        (Refuse(Code.ABORTED, "again"), EnqueueUnavailable, "again"),
    ],
)
def test_what_the_service_refuses_becomes_an_error_that_names_queue_and_task(
    client: CloudTransport,
    service: Service,
    refusal: Refuse,
    error: type[EnqueueError],
    hint: str,
) -> None:
    service.always = refusal
    with pytest.raises(EnqueueError) as caught:
        client.send(message())
    assert type(caught.value) is error
    text = str(caught.value)
    assert "tests.testapp.tasks.note" in text
    assert "'default'" in text
    assert hint in text
    assert caught.value.__cause__ is not None


# Retries.


@pytest.mark.parametrize(
    "code",
    [
        Code.UNAVAILABLE,
        Code.DEADLINE_EXCEEDED,
        Code.INTERNAL,
        Code.UNKNOWN,
        Code.ABORTED,
        Code.RESOURCE_EXHAUSTED,
    ],
)
@pytest.mark.parametrize("creates", [False, True])
def test_an_ambiguous_failure_is_tried_again_under_the_same_name(
    client: CloudTransport, service: Service, code: grpc.StatusCode, creates: bool
) -> None:
    service.replies = [Refuse(code, creates=creates)]
    sent = message()
    client.send(sent)
    assert service.waiting("default") == [sent.name]
    assert service.creates == 2


@pytest.mark.parametrize(
    "code", [Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED]
)
def test_what_will_not_pass_is_not_tried_again(
    client: CloudTransport, service: Service, code: grpc.StatusCode
) -> None:
    service.always = Refuse(code)
    with pytest.raises(EnqueueError):
        client.send(message())
    assert service.creates == 1


def test_a_named_task_whose_answer_was_lost_is_known_as_its_own(
    client: CloudTransport, service: Service
) -> None:
    service.replies = [Refuse(Code.UNAVAILABLE, creates=True)]
    client.send(message(name="mine", named=True))
    assert service.waiting("default") == ["mine"]
    assert service.calls == ["CreateTask", "CreateTask", "GetTask"]


def test_a_named_task_of_another_call_is_not_taken_for_its_own(
    client: CloudTransport, service: Service
) -> None:
    client.send(message(1, name="mine", named=True))
    service.replies = [Refuse(Code.UNAVAILABLE)]
    with pytest.raises(DuplicateTask):
        client.send(message(2, name="mine", named=True))


def test_retries_wait_a_little_longer_each_time_and_end(
    client: CloudTransport, service: Service, passing: Time
) -> None:
    service.always = Refuse(Code.UNAVAILABLE)
    with pytest.raises(EnqueueUnavailable):
        client.send(message())
    assert service.creates == cloud.TRIES
    assert 0 < passing.now < 2


def test_slow_failures_end_in_bounded_time(
    client: CloudTransport, service: Service, passing: Time
) -> None:
    slow = service._next

    def create(call: str) -> Refuse | None:
        passing.sleep(cloud.RPC_TIMEOUT)
        return slow(call)

    service._next = create  # type: ignore[method-assign]
    try:
        service.always = Refuse(Code.DEADLINE_EXCEEDED)
        with pytest.raises(EnqueueUnavailable):
            client.send(message())
        assert passing.now <= cloud.PATIENCE + cloud.RPC_TIMEOUT
        assert service.creates < cloud.TRIES
    finally:
        del service._next


# Many.


@with_batches
def test_many_go_in_batches_of_100_a_queue(
    client: CloudTransport, service: Service
) -> None:
    sent = [message(n, queue=("default", "mail")[n % 2]) for n in range(450)]
    assert client.send_many(sent) == [None] * 450
    assert sorted(service.batch_sizes) == [25, 25, 100, 100, 100, 100]
    assert service.creates == 0


@with_batches
def test_the_parts_of_a_queue_get_batches_of_their_own(
    client: CloudTransport, service: Service, cloud_settings: Any
) -> None:
    queues = {"default": {"spread": 2}}
    sent = [message(n) for n in range(400)]
    with override_settings(CLOUDTASK={**cloud_settings, "QUEUES": queues}):
        parts = Counter(requests.part_of(one) for one in sent)
        assert client.send_many(sent) == [None] * 400

    wanted = [size for many in parts.values() for size in _batches_of(many)]
    assert sorted(service.batch_sizes) == sorted(wanted)


def _batches_of(many: int) -> list[int]:
    """The sizes of the batches; a message that is left alone goes without one."""
    sizes = [min(100, many - start) for start in range(0, many, 100)]
    return [size for size in sizes if size > 1]


@with_batches
def test_batches_stay_below_what_a_server_takes_at_once(
    client: CloudTransport, service: Service
) -> None:
    sent = [message(n, payload=os.urandom(900_000)) for n in range(10)]
    assert client.send_many(sent) == [None] * 10
    assert len(service.tasks) == 10
    assert max(service.batch_sizes) == 3


@with_batches
def test_a_server_without_batches_is_asked_once(
    client: CloudTransport, service: Service
) -> None:
    service.batch = Refuse(Code.UNIMPLEMENTED, "Method not found!")
    assert client.send_many([message(n) for n in range(250)]) == [None] * 250
    assert client.send_many([message(n) for n in range(20)]) == [None] * 20
    assert service.batch_sizes == [100]
    assert service.creates == 270


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL, Code.NOT_FOUND])
@pytest.mark.parametrize("creates", [False, True])
@with_batches
def test_a_batch_that_failed_is_sent_one_by_one(
    client: CloudTransport, service: Service, code: grpc.StatusCode, creates: bool
) -> None:
    service.batch = Refuse(code, creates=creates)
    sent = [message(n) for n in range(30)]
    sent[7] = message(7, name="mine", named=True)
    assert client.send_many(sent) == [None] * 30
    assert len(service.tasks) == 30
    service.batch = None
    client.send_many([message(), message()])
    assert service.batch_sizes == [30, 2]


@with_batches
def test_an_emulator_that_knows_no_batches_may_say_unknown(
    client: CloudTransport, service: Service
) -> None:
    service.batch = Refuse(Code.UNKNOWN, "Exception calling application")
    client.send_many([message(), message()])
    client.send_many([message(), message()])
    assert service.batch_sizes == [2]


def test_of_a_batch_only_what_was_refused_is_reported(
    client: CloudTransport, service: Service
) -> None:
    client.send(message(name="taken", named=True))
    old = message(99)
    client.send(old)
    sent = [message(n) for n in range(10)]
    sent[4] = message(4, name="taken", named=True)
    sent[5] = old
    errors = client.send_many(sent)
    assert [n for n, error in enumerate(errors) if error] == [4]
    assert isinstance(errors[4], DuplicateTask)


def test_one_queue_that_is_missing_does_not_hold_up_the_others(
    client: CloudTransport, service: Service
) -> None:
    service.queues = {QUEUES[0]}
    service.batch = Refuse(Code.UNIMPLEMENTED)
    sent = [message(n, queue=("default", "mail")[n % 2]) for n in range(6)]
    errors = client.send_many(sent)
    assert [type(error) for error in errors] == [type(None), QueueNotFound] * 3


def test_when_the_service_is_down_not_all_of_many_are_tried(
    client: CloudTransport, service: Service
) -> None:
    service.batch = Refuse(Code.UNAVAILABLE)
    service.always = Refuse(Code.UNAVAILABLE)
    errors = client.send_many([message(n) for n in range(1000)])
    assert {type(error) for error in errors} == {EnqueueUnavailable}
    assert service.creates <= 100 * cloud.TRIES
    assert "Not tried" in str(errors[-1])


# From `defer`.


@pytest.mark.parametrize("transactional", [None, False])
def test_a_failing_enqueue_raises_in_the_caller(
    service: Service, transactional: bool | None
) -> None:
    service.always = Refuse(Code.NOT_FOUND, "Queue does not exist.")
    with pytest.raises(QueueNotFound):
        note.using(transactional=transactional).defer(1)


def test_defer_many_reports_which_calls_failed(service: Service) -> None:
    service.batch = Refuse(Code.UNIMPLEMENTED)
    service.replies = [Refuse(Code.INVALID_ARGUMENT, "no")]
    with pytest.raises(EnqueueError) as caught:
        note.defer_many(call(n) for n in range(5))
    failures = caught.value.failures
    assert len(failures) == 1
    (place,) = failures
    assert "1 of 5" in str(caught.value)
    sent = [
        envelope.unseal(t.http_request.body, now=0).payload
        for t in service.tasks.values()
    ]
    assert sorted(sent) == sorted(
        f"[[{n}],{{}}]".encode() for n in range(5) if n != place
    )


def test_defer_many_over_four_megabytes_arrives_whole(service: Service) -> None:
    text = os.urandom(60_000).hex()[:100_000]
    receipts = small_note.defer_many(call(text) for _ in range(60))
    assert len(service.tasks) == 60
    assert sorted(service.waiting("default")) == sorted(r.name for r in receipts)


# The client.


def test_a_process_has_one_client(service: Service) -> None:
    assert clients.get() is clients.get()


def test_the_host_of_the_emulator_may_change_between_calls(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = note.defer(1)
    with Emulator(queues=QUEUES) as emulator:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", f"http://{emulator.address}/")
        second = note.using(countdown=600).defer(2)
        (there,) = emulator.tasks()
    assert service.waiting("default") == [first.name]
    assert there.name.endswith(second.name)
    monkeypatch.setenv("TASKS_EMULATOR_HOST", service.address)
    monkeypatch.delenv("CLOUD_TASKS_EMULATOR_HOST")
    third = note.defer(3)
    assert service.waiting("default") == [first.name, third.name]


def test_an_emulator_that_does_not_answer_is_named(
    client: CloudTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", address)

    with pytest.raises(EnqueueUnavailable) as caught:
        client.send(message())

    assert f"no emulator answers at {address}. Start it" in str(caught.value)
    assert "Trying again" not in str(caught.value)


def test_a_call_tells_google_its_queue_and_its_client(service: Service) -> None:
    note.defer(1)
    (headers,) = service.headers
    assert headers["x-goog-request-params"] == (
        "parent=projects/p/locations/l/queues/default"
    )
    assert " gapic/" in headers["x-goog-api-client"]


def test_a_forked_child_makes_a_client_of_its_own(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As under gunicorn with preload, and with a lock held while it forks.
    note.defer("before")
    with clients.lock:
        children = [_forked(lambda: note.defer("in the child")) for _ in range(3)]
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    note.defer("after")
    assert len(service.tasks) == 5


def _forked(act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        act()
    except BaseException:  # noqa: BLE001  nothing may return from here
        os._exit(1)
    os._exit(0)


def test_without_credentials_the_error_says_what_to_do(
    cloud_settings: Any, monkeypatch: pytest.MonkeyPatch, mocker: Any
) -> None:
    from google.auth.exceptions import DefaultCredentialsError

    for name in ("CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    mocker.patch("google.auth.default", side_effect=DefaultCredentialsError("none"))
    with pytest.raises(ConfigurationError, match="gcloud auth application-default"):
        note.defer(1)


@pytest.mark.parametrize("error", ["RefreshError", "TransportError"])
def test_credentials_that_cannot_be_refreshed_are_unavailable(
    client: CloudTransport, mocker: Any, error: str
) -> None:
    import google.auth.exceptions

    failing = mocker.patch(
        "cloudtask.transports.cloud.creating.create",
        side_effect=getattr(google.auth.exceptions, error)("metadata"),
    )
    with pytest.raises(EnqueueUnavailable, match="metadata"):
        client.send(message())
    assert failing.call_count == cloud.TRIES


# The project.


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No project is known from anywhere."""
    for name in (
        "GOOGLE_CLOUD_PROJECT",
        "CLOUD_TASKS_EMULATOR_HOST",
        "TASKS_EMULATOR_HOST",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(requests, "_found_projects", [])
    with override_settings(CLOUDTASK={**CLOUD, "PROJECT": None}):
        yield


def test_the_project_is_that_of_the_settings_then_of_the_environment(
    nameless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "of-the-environment")
    assert "projects/of-the-environment/" in requests.queue_path("default")
    with override_settings(CLOUDTASK=CLOUD):
        assert requests.queue_path("q") == "projects/p/locations/l/queues/q"


def test_the_project_may_be_that_of_the_metadata_server(
    nameless: None, mocker: Any
) -> None:
    found = mocker.patch("google.auth.default", return_value=(None, "of-metadata"))
    assert requests.project() == "of-metadata"
    assert requests.project() == "of-metadata"
    found.assert_called_once()


def test_a_project_that_is_not_found_is_asked_for_again(
    nameless: None, mocker: Any
) -> None:
    from google.auth.exceptions import DefaultCredentialsError

    found = mocker.patch("google.auth.default", side_effect=DefaultCredentialsError())
    with pytest.raises(ConfigurationError, match=r"CLOUDTASK\['PROJECT'\]"):
        requests.project()
    found.side_effect = None
    found.return_value = (None, None)
    with pytest.raises(ConfigurationError, match="my-project"):
        requests.project()
    found.return_value = (None, "late")
    assert requests.project() == "late"


def test_beside_an_emulator_no_credentials_are_asked_for(
    nameless: None, monkeypatch: pytest.MonkeyPatch, mocker: Any
) -> None:
    found = mocker.patch("google.auth.default")
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:1")
    assert requests.project() == "local"
    found.assert_not_called()


def test_the_transport_of_the_settings_is_the_cloud(cloud_settings: Any) -> None:
    assert isinstance(transport(), CloudTransport)


def test_a_message_with_a_row_is_recognised_when_it_is_sent_twice(
    client: CloudTransport, service: Service
) -> None:
    sent = message(name="mine", named=True, outboxed=True)
    client.send(sent)
    client.send(sent)
    other = replace(message(name="mine", named=True), outboxed=True)
    with pytest.raises(DuplicateTask):
        client.send(other)
