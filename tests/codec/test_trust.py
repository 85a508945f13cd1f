"""A payload can name only what the project has named as its own."""

import sys

import pytest

from cloudtask.codec import dumps, loads, trusted_modules
from cloudtask.exceptions import PayloadError, UnsupportedValue
from tests.codec import samples
from tests.codec.samples import Colour, Frozen, Point

NOT_FUNCTIONS = [
    "os:system",
    "posix:system",
    "builtins:eval",
    "builtins:exec",
    "subprocess:run",
    "importlib:import_module",
    "django.db.models.fields:_load_field",
    "django.db.models.deletion:CASCADE",
    "django.core.management:call_command",
    "cloudtask",
    "",
    ":",
    "tests.codec.samples:",
    "tests.codec.samples:threading.Lock",
    "tests.codec.samples:field",
    "tests.codec.samples:borrowed",
    "tests.codec.samples:nameless",
    "tests.codec.samples:Plain",
    "tests.codec.samples:greet.__globals__",
    "tests.codec.samples:greet.__code__",
    "tests.codec.samples:Outer.__init__.__globals__",
    "tests.codec.samples:gone",
    "tests.codec.samples_of_others:greet",
    "tests.testapp.models:models.Model",
]


@pytest.mark.parametrize("path", NOT_FUNCTIONS)
@pytest.mark.parametrize("tag", ["function"])
def test_a_path_that_is_no_function_of_the_project_is_refused(tag, path):
    with pytest.raises(PayloadError):
        loads(f'{{"$":["{tag}","{path}"]}}'.encode())


@pytest.mark.parametrize(
    "path", ["subprocess:Popen", "os:_wrap_close", "builtins:eval", "logging:Logger"]
)
def test_a_class_of_the_library_is_refused_unless_its_kind_is_known(path):
    with pytest.raises(PayloadError):
        loads(f'{{"$":["class","{path}"]}}'.encode())


@pytest.mark.parametrize("tag", ["enum", "flag", "dataclass", "namedtuple"])
@pytest.mark.parametrize("path", ["subprocess:Popen", "os:system", "json:loads"])
def test_the_library_gives_only_what_the_tag_says(tag, path):
    with pytest.raises(PayloadError):
        loads(f'{{"$":["{tag}",["{path}",{{}}]]}}'.encode())


@pytest.mark.parametrize(
    "module",
    [
        *("antigravity", "this", "json.__main__", "django.__main__"),
        *("tests.never_imported", "tests.codec.samples.__main__", "pip"),
    ],
)
def test_nothing_is_imported_before_its_module_is_trusted(module):
    with pytest.raises(PayloadError):
        loads(f'{{"$":["enum",["{module}:X","Y"]]}}'.encode())
    assert module not in sys.modules


def test_trust_follows_the_setting(settings):
    assert trusted_modules() == ("tests.codec.samples",)
    sent = [dumps(value) for value in (samples.greet, Colour.RED, Frozen(1), Point(1))]
    settings.CLOUDTASK = {}
    for data in sent:
        with pytest.raises(PayloadError, match="TRUSTED_MODULES"):
            loads(data)
    for value in (samples.greet, Colour.RED, Frozen(1), Point(1), Frozen):
        with pytest.raises(UnsupportedValue, match="TRUSTED_MODULES"):
            dumps(value)
    settings.CLOUDTASK = {"TRUSTED_MODULES": ["tests"]}
    assert loads(sent[0]) is samples.greet


def test_a_prefix_ends_at_a_dot(settings):
    settings.CLOUDTASK = {"TRUSTED_MODULES": ["tests.codec.sam"]}
    with pytest.raises(UnsupportedValue):
        dumps(samples.greet)


def test_a_module_that_fails_to_import_is_a_payload_error(settings):
    settings.CLOUDTASK = {"TRUSTED_MODULES": ["tests.codec"]}
    with pytest.raises(PayloadError, match="can't be imported"):
        loads(b'{"$":["function","tests.codec.nothing_here:x"]}')
