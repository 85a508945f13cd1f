"""Model instances arrive as snapshots: no query, no signal, the sender unchanged."""

import datetime as dt
from decimal import Decimal

import pytest
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import F, Prefetch, Value
from django.db.models.signals import post_init, pre_init

from cloudtask import codec
from cloudtask.codec import dumps, loads
from cloudtask.exceptions import PayloadError, UnsupportedValue
from tests.testapp.models import (
    Author,
    Book,
    Cover,
    Genre,
    Label,
    Novel,
    Spot,
    SpotField,
    Thriller,
)

pytestmark = pytest.mark.django_db


def fields_of(instance) -> dict:
    return {name: v for name, v in vars(instance).items() if not name.startswith("_")}


@pytest.fixture
def book() -> Book:
    author = Author.objects.create(name="Ada")
    book = Book.objects.create(
        title="Notes",
        author=author,
        price=Decimal("9.50"),
        published=dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        data={"a": [1, {"$": None}]},
    )
    label = Label.objects.create(name="old")
    label.books.add(book)
    Cover.objects.create(book=book, image="covers/a.png", focus=Spot(1, 2))
    return Book.objects.get(pk=book.pk)


def test_an_instance_arrives_with_its_fields_and_state(book):
    arrived = loads(dumps(book))
    assert type(arrived) is Book
    assert arrived == book
    assert fields_of(arrived) == fields_of(book)
    assert (arrived._state.db, arrived._state.adding) == ("default", False)


def test_an_unsaved_instance_arrives_unsaved():
    arrived = loads(dumps(Book(title="New")))
    assert (arrived.pk, arrived.title) == (None, "New")
    assert (arrived._state.db, arrived._state.adding) == (None, True)
    arrived.save()
    assert Book.objects.get().title == "New"


def test_neither_side_makes_a_query(book, django_assert_num_queries):
    deferred = Book.objects.only("title").get()
    with django_assert_num_queries(0):
        loads(dumps([book, deferred]))
        loads(dumps([book, deferred], wipe_related_caches=False))


def test_neither_init_nor_its_signals_run(book):
    data, seen = dumps(book), []

    def listen(**kwargs):
        seen.append(kwargs)

    for signal in (pre_init, post_init):
        signal.connect(listen, sender=Book)
    try:
        loads(data)
    finally:
        for signal in (pre_init, post_init):
            signal.disconnect(listen, sender=Book)
    assert seen == []


def test_a_deferred_field_stays_deferred(book, django_assert_num_queries):
    arrived = loads(dumps(Book.objects.only("title").get()))
    assert arrived.get_deferred_fields() == {
        *("author_id", "pages", "price", "published", "data")
    }
    with django_assert_num_queries(1):
        assert arrived.data == book.data


def test_related_caches_are_left_out_and_the_instance_keeps_them(
    book, django_assert_num_queries
):
    book = (
        Book.objects.select_related("author", "cover").prefetch_related("labels").get()
    )
    state = dict(book._state.fields_cache)
    arrived = loads(dumps({"books": [book]}))["books"][0]
    assert arrived._state.fields_cache == {}
    assert not hasattr(arrived, "_prefetched_objects_cache")
    assert book._state.fields_cache == state
    with django_assert_num_queries(0):
        assert book.author.name == "Ada"
        assert book.labels.all()[0].name == "old"
    with django_assert_num_queries(1):
        assert arrived.author.name == "Ada"


def test_related_caches_arrive_when_asked_for(book, django_assert_num_queries):
    book = (
        Book.objects.select_related("author", "cover").prefetch_related("labels").get()
    )
    arrived = loads(dumps(book, wipe_related_caches=False))
    with django_assert_num_queries(0):
        assert arrived.author.name == "Ada"
        assert arrived.cover.book is arrived
        assert [label.name for label in arrived.labels.all()] == ["old"]
    assert arrived.labels.filter(name="old").count() == 1


def test_a_cached_none_arrives(book, django_assert_num_queries):
    book.author = None
    arrived = loads(dumps(book, wipe_related_caches=False))
    assert arrived._state.fields_cache == {"author": None}


def test_prefetched_lists_arrive_when_asked_for(book, django_assert_num_queries):
    wanted = Prefetch("books", Book.objects.filter(title="Notes"), to_attr="notes")
    author = Author.objects.prefetch_related(wanted).get()
    arrived = loads(dumps(author, wipe_related_caches=False))
    with django_assert_num_queries(0):
        assert arrived.notes[0].title == "Notes"
        assert arrived.notes[0].author is arrived


def test_caches_in_a_circle_arrive_in_a_circle(book):
    author = book.author
    author._state.fields_cache["books"] = book
    arrived = loads(dumps(book, wipe_related_caches=False))
    assert arrived.author._state.fields_cache["books"] is arrived


def test_a_cached_relation_that_was_removed_is_dropped(book):
    book.author = None
    data = dumps(book, wipe_related_caches=False)
    arrived = loads(data.replace(b'{"author":null}', b'{"editor":null}'))
    assert arrived._state.fields_cache == {}


def test_a_refusal_in_a_related_instance_names_its_place(book):
    book.author.name = object()
    with pytest.raises(UnsupportedValue, match=r"^value\.author\.name: object can't"):
        dumps(book, wipe_related_caches=False)


def test_a_child_table_arrives_with_its_parents_fields():
    Novel.objects.create(title="Long", pages=900, genre=Genre.SCIENCE)
    novel = Novel.objects.get()
    novel.genre = Genre.FICTION
    arrived = loads(dumps(novel))
    assert type(arrived) is Novel
    assert fields_of(arrived) == fields_of(novel)
    assert arrived.genre is Genre.FICTION


def test_a_proxy_arrives_as_the_proxy():
    assert type(loads(dumps(Thriller(title="x")))) is Thriller


def test_a_file_travels_by_its_name_and_a_custom_value_by_its_field(book):
    cover = Cover.objects.get()
    assert cover.image.name == "covers/a.png"  # access has made a FieldFile of it
    cover.thumbnail = memoryview(b"\x00\xff")
    arrived = loads(dumps(cover))
    assert arrived.image.name == "covers/a.png"
    assert arrived.image.instance is arrived
    assert arrived.focus == Spot(1, 2)
    assert arrived.thumbnail == b"\x00\xff"


def test_a_custom_value_that_its_field_does_not_read_again_is_refused(monkeypatch):
    monkeypatch.setattr(SpotField, "to_python", lambda self, value: value)
    with pytest.raises(UnsupportedValue, match=r"^value\.focus: tests.testapp"):
        dumps(Cover(focus=Spot(1, 2)))


def test_an_expression_as_a_value_arrives(book):
    book.pages = F("pages") + 3
    loads(dumps(book)).save()
    assert Book.objects.get().pages == 3


def test_an_empty_file_arrives():
    assert not loads(dumps(Cover())).image


def test_a_field_that_was_removed_is_dropped(book):
    arrived = loads(dumps(book).replace(b'"title"', b'"name"'))
    assert not hasattr(arrived, "name")


def test_a_field_that_was_added_takes_its_default(book):
    assert loads(dumps(book).replace(b'"data"', b'"old"')).data == {}


def test_a_model_that_is_gone_is_a_payload_error(book):
    with pytest.raises(PayloadError, match=r"no model 'testapp\.Booklet'"):
        loads(dumps(book).replace(b"testapp.Book", b"testapp.Booklet"))


def test_a_model_that_was_replaced_is_refused():
    state = ProjectState()
    state.add_model(ModelState.from_model(Author))
    old = state.apps.get_model("testapp", "Author")
    with pytest.raises(UnsupportedValue, match="is not a model of an installed app"):
        dumps(old(name="x"))


def test_a_change_after_dumps_changes_nothing(book):
    data = dumps(book)
    book.data["a"].append(2)
    book.title = "Other"
    assert loads(data).title == "Notes"
    assert loads(data).data == {"a": [1, {"$": None}]}


def test_a_value_of_the_query_machinery_in_a_field_arrives():
    assert loads(dumps(Book(title=Value("x")))).title == Value("x")


def test_instances_in_instances_are_refused_in_no_time():
    """Tried twice at each level, forty of them would take days."""
    book = Book(title="0", data={"lock": object()})
    for level in range(1, 40):
        book = Book(title=str(level), data={"book": book})

    with pytest.raises(UnsupportedValue, match="object can't travel"):
        codec.dumps(book)


def test_an_instance_that_contains_itself_is_refused():
    book = Book(title="a")
    book.data = {"book": book}

    with pytest.raises(UnsupportedValue, match="contains itself"):
        codec.dumps(book)
