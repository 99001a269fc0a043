"""Columns of listings: one list in the code, and the page says what is in it."""

import re

from eeasr_modules.data import listings
from eeasr_modules.data.manifest import COLUMNS


def test_the_page_names_the_columns_that_are_read(root):
    page = (root / "recipes/Custom/README.md").read_text("utf-8")
    said = re.search(r"^\*\*Columns\.\*\*.*$", page, re.M)[0]
    for columns in (listings.AUDIO_COLUMNS, listings.TEXT_COLUMNS, listings.ID_COLUMNS, listings.SPEAKER_COLUMNS):
        pattern = ", ".join(f"`{name}`" for name in columns)
        assert pattern in said.replace(" or ", ", "), columns


def test_a_manifest_is_a_listing():
    first = [listings.ID_COLUMNS[0], listings.AUDIO_COLUMNS[0], listings.SPEAKER_COLUMNS[0], listings.TEXT_COLUMNS[0]]
    assert [name for name in COLUMNS if name != "duration"] == first
