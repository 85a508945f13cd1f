"""Lazy strings stay lazy and speak the language of where they are read."""

import pytest
from django.contrib.auth.models import User
from django.urls import reverse_lazy
from django.utils.functional import Promise, SimpleLazyObject, lazy, lazystr
from django.utils.text import format_lazy
from django.utils.translation import (
    gettext_lazy,
    ngettext_lazy,
    npgettext_lazy,
    override,
    pgettext_lazy,
)

from cloudtask.codec import dumps, loads
from cloudtask.exceptions import PayloadError, UnsupportedValue
from tests.codec import urls

TEXTS = [
    gettext_lazy("Yes"),
    pgettext_lazy("alt. month", "May"),
    ngettext_lazy("%(num)d day", "%(num)d days", 2),
    npgettext_lazy("c", "one", "many", 2),
    format_lazy("{} / {no}", gettext_lazy("Yes"), no=gettext_lazy("No")),
    lazystr("plain"),
    reverse_lazy("admin:index", urlconf=urls.__name__),
]


@pytest.mark.parametrize(
    "text", TEXTS, ids=lambda text: text.__reduce__()[1][0].__name__
)
def test_a_lazy_string_stays_lazy_and_renders_the_same(text):
    arrived = loads(dumps(text))
    assert isinstance(arrived, Promise)
    for language in ("en", "de"):
        with override(language):
            assert str(arrived) == str(text)


def test_a_lazy_string_renders_in_the_language_in_force_where_it_is_read():
    with override("sk"):
        data = dumps(gettext_lazy("Yes"))
    with override("de"):
        assert str(loads(data)) == "Ja"


@pytest.mark.parametrize("number", ["num", None])
def test_a_plural_waits_for_its_number(number):
    text = ngettext_lazy("%(num)d day", "%(num)d days", number)
    values = {"num": 2} if number else 2
    if number is None:
        text = ngettext_lazy("%d day", "%d days")
    arrived = loads(dumps(text))
    assert arrived % values == text % values == "2 days"


def test_a_lazy_call_of_any_other_function_is_refused():
    with pytest.raises(UnsupportedValue, match="Only translations stay lazy"):
        dumps(lazy(lambda: "x", str)())


@pytest.mark.parametrize("name", ["eval", "system", "os:system", "__class__"])
def test_a_payload_can_name_no_other_function(name):
    for tag, arguments in (("lazy", "[],{}"), ("counted", "{}")):
        with pytest.raises(PayloadError):
            loads(f'{{"$":["{tag}",["{name}",{arguments}]]}}'.encode())


def test_a_lazy_object_arrives_as_what_it_stands_for():
    user = SimpleLazyObject(lambda: User(pk=3, username="ada"))
    arrived = loads(dumps(user))
    assert type(arrived) is User
    assert (arrived.pk, arrived.username) == (3, "ada")
