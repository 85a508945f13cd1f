"""Encodes model instances and model classes.

An instance travels as a snapshot of its concrete fields, read from its `__dict__`: no
query, no deferred field loaded. It is made again without `__init__` and signals.

With `wipe_related_caches=False` its cached relations travel too. Caches point back at
their owners, so each instance is written once, in a list, and the caches hold numbers
in that list.
"""

from __future__ import annotations

import itertools
from inspect import getattr_static
from typing import Any

from django.apps import apps
from django.db.models import Field, Model, QuerySet
from django.db.models.base import ModelBase, ModelState
from django.db.models.signals import post_init

from cloudtask.codec import shapes, tags
from cloudtask.codec.fields import Prepared, pack_field
from cloudtask.codec.packing import Packer, Packing, decoders, escaped, families
from cloudtask.codec.refusals import Refusal
from cloudtask.codec.tags import MARK
from cloudtask.exceptions import PayloadError

_OWN = {"_state", "_prefetched_objects_cache"}


def label_of(model: type[Model]) -> str:
    """ "app.Model"; raises Refusal unless the app registry gives the same class."""
    label = model._meta.label
    try:
        known: Any = apps.get_model(label)
    except LookupError:
        known = None
    if known is not model:
        raise Refusal(ModelBase, f"{label} is not a model of an installed app.")
    return label


def model_of(label: Any) -> type[Model]:
    """The model with this label; raises PayloadError."""
    try:
        return apps.get_model(shapes.text(label))
    except (LookupError, ValueError) as error:
        raise PayloadError(f"There is no model {label!r} any more.") from error


# Snapshots of single instances.


def _snapshot(value: Model, packing: Packing) -> list[Any]:
    """Model, database, whether it is unsaved, fields; then, if there are any, names of
    deferred fields and other attributes."""
    fields: dict[str, Any] = {}
    deferred: list[str] = []
    attributes = value.__dict__
    for field in value._meta.concrete_fields:
        if field.attname in attributes:
            fields[field.attname] = pack_field(field, attributes, packing)
        else:
            deferred.append(field.attname)
    state = value._state
    packed = [label_of(type(value)), state.db, state.adding, fields]
    if state_of := _own_state(value, packing):
        return [*packed, deferred, state_of]
    return [*packed, deferred] if deferred else packed


def _own_state(value: Model, packing: Packing) -> Any:
    """The attributes that a model has set as its instance was made: its other methods
    may rely on them, as those that track changes do."""
    kind: Any = type(value)
    if not _sets_state(kind):
        return None
    found = {
        name: item
        for name, item in vars(value).items()
        if _may_be_state(kind, name) and not (item and _is_list_of_models(item))
    }
    try:
        return packing.attributes(found)
    except Refusal as refusal:
        refusal.advice = (
            f"{kind.__name__} sets it as an instance is made (__init__, from_db or "
            "post_init). Pass the primary key and read the row in the task, or "
            f"register {kind.__name__} with cloudtask.codec.register()."
        )
        raise


def _sets_state(kind: Any) -> bool:
    """Whether instances may get attributes as they are made: by an `__init__` or a
    `from_db` of the model's own, or by a receiver of `post_init`."""
    if kind.__init__ is not Model.__init__:
        return True
    if kind.from_db.__func__ is not Model.from_db.__func__:  # type: ignore[attr-defined]
        return True
    # Fields such as ImageField only look at their own values.
    receivers = itertools.chain(*post_init._live_receivers(kind))
    return any(not isinstance(_owner(one), Field) for one in receivers)


def _owner(receiver: Any) -> Any:
    return getattr(receiver, "__self__", None)


def _may_be_state(model: type[Model], name: str) -> bool:
    """Whether an instance may have this attribute beside its fields: it hides nothing
    that its class does."""
    hidden = getattr_static(model, name, None)
    return _may_be_list(model, name) and not (
        callable(hidden) or hasattr(type(hidden), "__get__")
    )


def _is_list_of_models(value: Any) -> bool:
    """Whether `Prefetch(to_attr=...)` may have made the list."""
    return type(value) is list and all(isinstance(item, Model) for item in value)


def _restored(content: Any) -> Model:
    """The instance of a snapshot.

    A field that was removed since is dropped; one that was added takes its default.
    """
    label, db, adding, fields, *rest = shapes.parts(content, 4, 6)
    deferred = shapes.texts(rest[0]) if rest else ()
    model = model_of(label)
    instance: Model = object.__new__(model)
    state = ModelState()
    state.db, state.adding = shapes.text_or_none(db), shapes.flag(adding)
    shapes.named(fields)
    attributes = instance.__dict__  # past any __setattr__ that watches for changes
    attributes["_state"] = state
    for field in model._meta.concrete_fields:
        name = field.attname
        if name in fields:
            value = fields[name]
            is_prepared = type(value) is Prepared
            attributes[name] = value.read_by(field) if is_prepared else value
        elif name not in deferred:
            attributes[name] = field.get_default()
    for name, value in (shapes.named(rest[1]) if len(rest) > 1 else {}).items():
        if not _may_be_state(model, name):
            raise PayloadError(f"The payload replaces {name!r} of an instance.")
        attributes[name] = value
    return instance


# Instances with what their caches lead to.


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


def _pack_related(root: Model, packing: Packing) -> list[Any]:
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
    snapshot = _snapshot(value, packing)
    return [snapshot, escaped(cached), escaped(prefetched), escaped(lists)]


def _lists(value: Model) -> dict[str, list[Model]]:
    """What `Prefetch(to_attr=...)` left on the instance."""
    return {
        name: items
        for name, items in vars(value).items()
        if _is_list_of_models(items) and _may_be_list(type(value), name)
    }


def _may_be_list(model: type[Model], name: str) -> bool:
    """Whether `Prefetch(to_attr=name)` may leave a list on an instance."""
    columns = {field.attname for field in model._meta.concrete_fields}
    return name not in columns | _OWN and not name.startswith("__")


def _decode_related(content: Any) -> Model:
    rows = [shapes.parts(row, 4) for row in shapes.listed(content)]
    instances = [_restored(snapshot) for snapshot, *_ in rows]
    for instance, (_, cached, prefetched, lists) in zip(instances, rows, strict=True):
        _link_cached(instance, shapes.named(cached), instances)
        _link_prefetched(instance, shapes.named(prefetched), instances)
        _link_lists(instance, shapes.named(lists), instances)
    return instances[0]


def _link_cached(instance: Any, cached: dict[str, Any], instances: list[Model]) -> None:
    known = _cache_names(type(instance))
    instance._state.fields_cache = {
        name: None if number is None else instances[shapes.whole(number)]
        for name, number in cached.items()
        if name in known  # a relation that was removed since is dropped
    }


def _link_prefetched(
    instance: Any, prefetched: dict[str, Any], instances: list[Model]
) -> None:
    for name, part in prefetched.items():
        queryset, numbers = shapes.parts(part, 2)
        if not issubclass(type(queryset), QuerySet):
            raise PayloadError("The payload has a prefetched relation of no queryset.")
        queryset._result_cache = _numbered(numbers, instances)
        queryset._prefetch_done = True
        vars(instance).setdefault("_prefetched_objects_cache", {})[name] = queryset


def _link_lists(instance: Any, lists: dict[str, Any], instances: list[Model]) -> None:
    for name, numbers in lists.items():
        if not _may_be_list(type(instance), name):
            raise PayloadError(f"The payload replaces {name!r} of an instance.")
        vars(instance)[name] = _numbered(numbers, instances)


def _numbered(numbers: Any, instances: list[Model]) -> list[Model]:
    return [instances[shapes.whole(number)] for number in shapes.listed(numbers)]


def _cache_names(model: type[Model]) -> set[str]:
    fields = (*model._meta.get_fields(include_hidden=True), *model._meta.private_fields)
    relations = (field for field in fields if field.is_relation)
    return {getattr(field, "cache_name", field.name) for field in relations}


# What the codec is told.


def _pack_instance(value: Model, packing: Packing) -> Any:
    if packing.wipe_related_caches:
        return {MARK: [tags.INSTANCE, _snapshot(value, packing)]}
    return {MARK: [tags.INSTANCES, _pack_related(value, packing)]}


def _pack_model(value: type[Model], packing: Packing) -> Any:
    return {MARK: [tags.MODEL, label_of(value)]}


def _family(kind: type) -> Packer | None:
    if issubclass(kind, ModelBase):
        return _pack_model
    return _pack_instance if issubclass(kind, Model) else None


decoders[tags.MODEL] = model_of
decoders[tags.INSTANCE] = _restored
decoders[tags.INSTANCES] = _decode_related
families.insert(0, _family)  # a model may also be a dataclass, its class is a class
