"""Links and pictures of every document lead somewhere. What commands documents show: tests/docs/test_commands.py."""

import re

import pytest
from shown_commands import DOCUMENTS, FENCE, ROOT


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_lead_to_files(document):
    text = FENCE.sub("", document.read_text("utf-8"))
    links = [*re.findall(r"\]\(([^)#\s]+)", text), *re.findall(r'src="([^"]+)"', text)]
    wrong = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert wrong == []
