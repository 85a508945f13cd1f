"""Checks the configuration of a queue, fills in defaults, and converts it.

Ranges, messages and defaults are those recorded from the real service.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from cloudtask.emulator.calls import task_rules
from cloudtask.emulator.protocol import (
    Message,
    copy_of,
    errors,
    has,
    put_time,
    seconds_of,
    v2,
)
from cloudtask.emulator.queues import Queue, QueueConfig, RetryPolicy, overridden

MAX_RATE = 500.0
MAX_CONCURRENCY = 5000


def burst_for(rate: float) -> int:
    """The burst size that the service picks for a rate: 100 for 500/s, 10 for 1/s."""
    return min(max(math.ceil(rate / 5), 10), 100)


def check(message: Message) -> None:
    """Raise `ApiError` INVALID_ARGUMENT for a configuration out of range."""
    limits = message.rate_limits
    for wrong, problem in (
        (
            limits.max_dispatches_per_second < 0,
            "RateLimits.maxDispatchesPerSecond cannot be negative.",
        ),
        (
            not limits.max_dispatches_per_second <= MAX_RATE,
            "RateLimits.maxDispatchesPerSecond must be less than or equal to 500.",
        ),
        (
            limits.max_concurrent_dispatches < 0,
            "RateLimits.maxConcurrentDispatches cannot be negative.",
        ),
        (
            limits.max_concurrent_dispatches > MAX_CONCURRENCY,
            "RateLimits.maxConcurrentDispatches must be less than or equal to 5000.",
        ),
    ):
        if wrong:
            raise errors.invalid(problem)
    check_retry(message.retry_config)
    if has(message, "http_target"):
        check_http_target(message.http_target)


def check_retry(config: Message) -> None:
    """The same for a queue's or a task's retry configuration."""
    least, most = seconds_of(config.min_backoff), seconds_of(config.max_backoff)
    default = RetryPolicy()
    lower = least if config.HasField("min_backoff") else default.min_backoff
    upper = most if config.HasField("max_backoff") else default.max_backoff
    for wrong, problem in (
        (config.max_attempts < -1, "maxAttempts must be greater or equal to -1."),
        (config.max_doublings < 0, "maxDoublings cannot be negative."),
        (least < 0, "minBackoff cannot be negative."),
        (most < 0, "maxBackoff cannot be negative."),
        (
            seconds_of(config.max_retry_duration) < 0,
            "maxRetryDuration cannot be negative.",
        ),
        (
            lower > upper,
            "minBackoff must be less than or equal to RetryConfig.maxBackoff.",
        ),
    ):
        if wrong:
            raise errors.invalid(f"RetryConfig.{problem}")


def from_message(message: Message, project: str, defaults: QueueConfig) -> QueueConfig:
    """The configuration that a client sent; `defaults` for the fields that are not set.

    The burst size is output only: it follows from the rate.
    """
    limits = message.rate_limits
    rate = limits.max_dispatches_per_second
    config = replace(
        defaults,
        rate=rate or defaults.rate,
        burst=burst_for(rate) if rate else defaults.burst,
        concurrency=limits.max_concurrent_dispatches or defaults.concurrency,
        retry=overridden(defaults.retry, message.retry_config),
    )
    if has(message, "http_target"):
        config = replace(config, http_target=copy_of(message.http_target))
    if message.HasField("app_engine_routing_override"):
        routing = copy_of(message.app_engine_routing_override)
        task_rules.complete_routing(routing, project)
        config = replace(config, routing=routing)
    if message.HasField("stackdriver_logging_config"):
        ratio = message.stackdriver_logging_config.sampling_ratio
        config = replace(config, log_sampling=ratio)
    return config


def from_complete_message(message: Message, project: str) -> QueueConfig:
    """The configuration of a message in which every field was filled in before.

    proto3 can't tell `max_doublings = 0` from an unset one; here it means 0.
    """
    retry = RetryPolicy(max_doublings=message.retry_config.max_doublings)
    return from_message(message, project, QueueConfig(retry=retry))


def to_message(queue: Queue) -> Message:
    """The `google.cloud.tasks.v2.Queue` that the API shows."""
    config = queue.config
    shown = v2.Queue(name=queue.name)
    shown.state = v2.Queue.PAUSED if queue.paused else v2.Queue.RUNNING
    shown.rate_limits.max_dispatches_per_second = config.rate
    shown.rate_limits.max_burst_size = config.burst
    shown.rate_limits.max_concurrent_dispatches = config.concurrency
    _put_retry(shown.retry_config, config.retry)
    if config.http_target is not None:
        shown.http_target.CopyFrom(config.http_target)
    if config.routing is not None:
        shown.app_engine_routing_override.CopyFrom(config.routing)
    if config.log_sampling is not None:
        shown.stackdriver_logging_config.sampling_ratio = config.log_sampling
    if queue.purge_time is not None:
        put_time(shown.purge_time, queue.purge_time)
    return shown


def _put_retry(field: Message, policy: RetryPolicy) -> None:
    field.max_attempts = policy.max_attempts
    field.max_doublings = policy.max_doublings
    put_time(field.max_retry_duration, policy.max_retry_duration)
    put_time(field.min_backoff, policy.min_backoff)
    put_time(field.max_backoff, policy.max_backoff)


_OUTPUT_ONLY = {"name", "state", "purge_time", "rate_limits.max_burst_size"}


def merge(current: Message, change: Message, paths: Iterable[str]) -> Message:
    """`current` with the fields named in an update mask taken from `change`.

    Without paths every field that a client may set is taken. Output only fields are
    ignored (`UpdateQueueRequest.queue`); an unknown path is INVALID_ARGUMENT.
    """
    merged = copy_of(current)
    if not (paths := list(paths)):
        merged = copy_of(change)
        merged.name = current.name
        return merged
    for path in paths:
        if path not in _OUTPUT_ONLY:
            _take(merged, change, path)
    return merged


def _take(merged: Message, change: Message, path: str) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        _field(merged, parent, path)
        merged, change = getattr(merged, parent), getattr(change, parent)
        if not hasattr(merged, "DESCRIPTOR") or not hasattr(merged, "CopyFrom"):
            raise _bad_path(path)
    field = _field(merged, last, path)
    merged.ClearField(last)
    value = getattr(change, last)
    if hasattr(value, "extend"):
        getattr(merged, last).extend(value)
    elif field.message_type is None:
        setattr(merged, last, value)
    elif change.HasField(last):
        getattr(merged, last).CopyFrom(value)


def _field(message: Message, name: str, path: str) -> Message:
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise _bad_path(path)
    return field


def _bad_path(path: str) -> errors.ApiError:
    return errors.invalid(f'Invalid field in the update mask: "{path}".')


def check_http_target(target: Message) -> None:
    """Raise `ApiError` INVALID_ARGUMENT for an HttpTarget that can't be used."""
    override = target.uri_override
    if override.HasField("host") and not override.host:
        raise errors.invalid("UriOverride.host cannot be empty.")
    if override.HasField("port") and not 0 <= override.port <= 65_535:
        raise errors.invalid("UriOverride.port must be a positive integer.")
    headers = {each.header.key: each.header.value for each in target.header_overrides}
    task_rules.check_headers(headers)
