"""What a model sets beside its fields, and values that only its fields can write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.postgres.fields import ArrayField, IntegerRangeField
from django.db import models
from psycopg.types.range import Range

from cloudtask import codec
from cloudtask.codec.fields import pack_field
from cloudtask.codec.packing import Packing
from cloudtask.exceptions import PayloadError, UnsupportedValue
from tests.testapp.models import Author, ReadAuthor, TrackedAuthor

pytestmark = pytest.mark.django_db


def arrived(value: Any, **options: Any) -> Any:
    return codec.loads(codec.dumps(value, **options))


@pytest.mark.parametrize("wipe", [True, False])
def test_what_a_model_sets_in_its_init_arrives(wipe: bool) -> None:
    author = TrackedAuthor.objects.create(name="Ann")
    author.name = "Bob"
    found = arrived(author, wipe_related_caches=wipe)
    assert (found._was, found._seen, found.has_changed) == ("Ann", [], True)
    found.save()
    assert Author.objects.get().name == "Bob"


def test_what_a_model_sets_when_it_is_read_arrives() -> None:
    Author.objects.create(name="Ann")
    assert arrived(ReadAuthor.objects.get())._read_from == "default"


def test_cached_properties_and_lists_of_models_do_not_travel() -> None:
    author = TrackedAuthor(name="Ann")
    author.friends = [Author(name="Bob")]  # type: ignore[attr-defined]
    assert author.initial == "A"
    assert not {"initial", "friends"} & vars(arrived(author)).keys()


def test_other_models_leave_such_attributes_behind() -> None:
    author = Author(name="Ann")
    author.note = "x"  # type: ignore[attr-defined]
    assert not hasattr(arrived(author), "note")


def test_state_that_cannot_travel_is_named_with_the_ways_out() -> None:
    author = TrackedAuthor(name="Ann")
    author.extra = threading.Lock()
    with pytest.raises(UnsupportedValue) as caught:
        codec.dumps([author], root="args")
    text = str(caught.value)
    assert text.startswith("args[0].extra: _thread.lock can't travel.")
    assert "Pass the primary key" in text
    assert "register TrackedAuthor with cloudtask.codec.register()" in text


@pytest.mark.parametrize("name", ["save", "has_changed", "name", "_state", "__class__"])
def test_a_payload_sets_nothing_that_the_class_has(name: str) -> None:
    data = codec.dumps(TrackedAuthor(name="Ann")).replace(
        b'"_was"', f'"{name}"'.encode()
    )
    with pytest.raises(PayloadError, match="replaces"):
        codec.loads(data)


class Watched(Author):
    """A model whose state a receiver of a signal keeps."""

    class Meta:
        proxy = True
        app_label = "testapp"


@pytest.fixture
def remembering() -> Iterator[dict[str, Any]]:
    """What a receiver of post_init sets on each instance of Watched."""
    state: dict[str, Any] = {"_was": "as it was"}

    def remember(instance: Any, **kwargs: Any) -> None:
        vars(instance).update(state)

    models.signals.post_init.connect(remember, sender=Watched)
    yield state
    models.signals.post_init.disconnect(remember, sender=Watched)


def test_what_a_receiver_of_post_init_sets_travels(remembering: Any) -> None:
    assert arrived(Watched(name="Ann"))._was == "as it was"


def test_what_a_receiver_sets_is_refused_by_its_name(remembering: Any) -> None:
    remembering["_tracker"] = threading.Lock()
    with pytest.raises(UnsupportedValue, match=r"\._tracker: .*post_init.*primary key"):
        codec.dumps(Watched(name="Ann"))


def test_the_receivers_of_djangos_own_fields_do_not_count() -> None:
    picture = Picture(width=1, height=2)
    vars(picture)["lock"] = threading.Lock()
    assert (arrived(picture).width, hasattr(arrived(picture), "lock")) == (1, False)


class Picture(models.Model):
    width = models.IntegerField()
    height = models.IntegerField()
    file = models.ImageField(width_field="width", height_field="height")

    class Meta:
        app_label = "testapp"
        managed = False

    def __str__(self) -> str:
        return str(self.file)


class Amount:
    """Money: an amount, and the currency of another column."""

    def __init__(self, number: Decimal, currency: str) -> None:
        self.number, self.currency = number, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Amount) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(self.number)


class MoneyProxy:
    """Adds the currency, as the descriptor of django-money does."""

    def __get__(self, instance: Any, owner: type) -> Any:
        value = vars(instance)["price"]
        if isinstance(value, Amount):
            return value
        return Amount(value, vars(instance)["currency"])

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)["price"] = value


class MoneyField(models.DecimalField):
    def get_prep_value(self, value: Any) -> Any:
        number = value.number if isinstance(value, Amount) else value
        return super().get_prep_value(number)

    def contribute_to_class(
        self, cls: Any, name: str, private_only: bool = False
    ) -> None:
        super().contribute_to_class(cls, name, private_only)
        setattr(cls, self.attname, MoneyProxy())


class Offer(models.Model):
    price = MoneyField(max_digits=9, decimal_places=2)
    currency = models.CharField(max_length=3)

    class Meta:
        app_label = "testapp"
        managed = False

    def __str__(self) -> str:
        return self.currency


def test_a_value_that_needs_another_column_travels() -> None:
    price = Amount(Decimal("3.50"), "USD")
    assert arrived(Offer(price=price, currency="USD")).price == price


class Stay(models.Model):
    nights = IntegerRangeField(null=True)
    seasons = ArrayField(IntegerRangeField(), null=True)

    class Meta:
        app_label = "testapp"
        managed = False

    def __str__(self) -> str:
        return str(self.nights)


@pytest.mark.parametrize(
    "values",
    [
        {"nights": Range(1, 5)},
        {"nights": Range(None, 5, "()")},
        {"nights": Range(empty=True)},
        {"seasons": [Range(1, 5), Range(7, None)]},
    ],
)
def test_a_range_travels_as_its_field_writes_it(values: dict[str, Any]) -> None:
    stay = Stay(**values)
    found = arrived(stay)
    assert (found.nights, found.seasons) == (stay.nights, stay.seasons)


def test_a_filter_by_the_field_of_a_ranges_ends_travels() -> None:
    queryset = Stay._default_manager.filter(nights__contains=3)
    (lookup,) = arrived(queryset).query.where.children
    field: Any = Stay._meta.get_field("nights")
    assert lookup.rhs.output_field is field.base_field
    written = codec.dumps(queryset)
    assert b"base_field" in written
    for other in (b"model_____", b"descriptio", b"base_fiel\\"):
        with pytest.raises(PayloadError):
            codec.loads(written.replace(b"base_field", other))


class Point:
    """A value that only its field can write, as a geometry is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text


class Proxy:
    """Makes the value when it is asked for, as the descriptor of a geometry does."""

    def __get__(self, instance: Any, owner: type) -> Any:
        value = vars(instance)["place"]
        return value if isinstance(value, Point) else Point(value)

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)["place"] = value


class PlaceField(models.TextField):
    def get_prep_value(self, value: Any) -> Any:
        return value  # for the adapter of the database's driver

    def contribute_to_class(
        self, cls: Any, name: str, private_only: bool = False
    ) -> None:
        super().contribute_to_class(cls, name, private_only)
        setattr(cls, self.attname, Proxy())


class Visit(models.Model):
    place = PlaceField()

    class Meta:
        app_label = "testapp"
        managed = False

    def __str__(self) -> str:
        return str(self.place)


def test_a_value_that_a_descriptor_makes_travels_as_text() -> None:
    visit = Visit(place=Point("POINT (1 2)"))
    assert arrived(visit).place == Point("POINT (1 2)")


def test_a_value_that_its_field_cannot_write_is_refused_as_itself() -> None:
    field: Any = Author._meta.get_field("name")
    with pytest.raises(UnsupportedValue):
        pack_field(field, {"name": threading.Lock()}, Packing(True))
