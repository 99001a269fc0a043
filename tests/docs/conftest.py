"""What pages register does not outlive them."""

import pytest

from eeasr_modules.models.encoders import ENCODERS


@pytest.fixture(autouse=True)
def registries():
    """The encoders that the program has, during and after a test."""
    before = dict(ENCODERS)
    yield
    ENCODERS.clear()
    ENCODERS.update(before)
