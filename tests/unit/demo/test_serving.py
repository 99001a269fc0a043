"""The demo is for this machine alone."""

import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from eeasr_modules.demo import app


class Page:
    """Stands for gradio's, which need not be installed."""

    def queue(self):
        return self

    def launch(self, **options):
        self.options = options
        return None, "http://127.0.0.1:7999/", None


@pytest.mark.parametrize("port", [None, 7999])
def test_the_page_is_bound_to_this_machine_and_not_shared(monkeypatch, port):
    page = Page()
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(themes=MagicMock()))
    monkeypatch.setattr(app, "build", lambda asr: page)
    assert app.serve(None, port=port, open_browser=False, block=False) == "http://127.0.0.1:7999/"
    assert (page.options["server_name"], page.options["share"]) == ("127.0.0.1", False)
    assert page.options["server_port"] == port
