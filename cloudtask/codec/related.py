"""Model instances with their cached relations, for `wipe_related_caches=False`.

Caches point back at their owners. Each instance is written once, in a list, and the
caches hold numbers in that list.
"""

from __future__ import annotations

from typing import Any

from django.db.models import Model

from cloudtask.codec.instances import restored, snapshot
from cloudtask.codec.packing import Packing
from cloudtask.codec.refusals import Refusal
from cloudtask.codec.registry import decoders

_OWN = {"_state", "_prefetched_objects_cache"}


class _Reached:
    """The instances that can be reached from the first, in the order they are met."""

    def __init__(self, root: Model) -> None:
        self.instances = [root]
        self.places = [""]
        self._numbers = {id(root): 0}

    def number(self, value: Model | None, place: str) -> int | None:
        if value is None:
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.instances)
            self.instances.append(value)
            self.places.append(place)
        return self._numbers[id(value)]

    def numbers(self, values: list[Any], place: str) -> list[int | None]:
        return [
            self.number(item, f"{place}[{index}]") for index, item in enumerate(values)
        ]


def pack_related(root: Model, packing: Packing) -> list[Any]:
    """`root` and all that its caches lead to."""
    reached = _Reached(root)
    packed: list[Any] = []
    for value in reached.instances:  # grows while it is walked
        place = reached.places[len(packed)]
        try:
            packed.append(_pack_one(value, place, reached, packing))
        except Refusal as refusal:
            refusal.places.append(place)
            raise
    return packed


def _pack_one(value: Any, place: str, reached: _Reached, packing: Packing) -> list[Any]:
    cached = {
        name: reached.number(related, f"{place}.{name}")
        for name, related in value._state.fields_cache.items()
        if related is None or isinstance(related, Model)
    }
    prefetched = {
        name: [
            packing.part(queryset, f".{name}"),
            reached.numbers(queryset._result_cache, f"{place}.{name}"),
        ]
        for name, queryset in getattr(value, "_prefetched_objects_cache", {}).items()
        if getattr(queryset, "_result_cache", None) is not None
    }
    lists = {
        name: reached.numbers(items, f"{place}.{name}")
        for name, items in _lists(value).items()
    }
    return [snapshot(value, packing), cached, prefetched, lists]


def _lists(value: Model) -> dict[str, list[Model]]:
    """What `Prefetch(to_attr=...)` left on the instance."""
    columns = {field.attname for field in value._meta.concrete_fields}
    return {
        name: items
        for name, items in vars(value).items()
        if type(items) is list
        and name not in columns | _OWN
        and all(isinstance(item, Model) for item in items)
    }


def _decode_related(payload: list[Any]) -> Model:
    instances = [restored(snapshot) for snapshot, *_ in payload]
    for instance, parts in zip(instances, payload, strict=True):
        _link(instance, parts, instances)
    return instances[0]


def _link(instance: Any, parts: list[Any], instances: list[Model]) -> None:
    _, cached, prefetched, lists = parts
    known = _cache_names(type(instance))
    instance._state.fields_cache = {
        name: None if number is None else instances[number]
        for name, number in cached.items()
        if name in known  # a relation that was removed since is dropped
    }
    for name, (queryset, numbers) in prefetched.items():
        queryset._result_cache = [instances[number] for number in numbers]
        queryset._prefetch_done = True
        vars(instance).setdefault("_prefetched_objects_cache", {})[name] = queryset
    for name, numbers in lists.items():
        vars(instance)[name] = [instances[number] for number in numbers]


def _cache_names(model: type[Model]) -> set[str]:
    fields = (*model._meta.get_fields(include_hidden=True), *model._meta.private_fields)
    relations = (field for field in fields if field.is_relation)
    return {getattr(field, "cache_name", field.name) for field in relations}


decoders["instances"] = _decode_related
