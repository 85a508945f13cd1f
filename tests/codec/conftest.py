from collections.abc import Iterator

import pytest
from django.test import override_settings


@pytest.fixture(autouse=True, scope="package")
def samples_are_trusted() -> Iterator[None]:
    with override_settings(CLOUDTASK={"TRUSTED_MODULES": ["tests.codec.samples"]}):
        yield
