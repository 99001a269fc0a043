"""What the demo hears and decides, with the tiny model of the runtime tests; it serves this machine alone."""

import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import soundfile

from eeasr_modules.demo import app
from eeasr_modules.demo.app import (
    ALL_POLICIES_UP_TO_S,
    exits_table,
    listen,
    marked_words,
    progress_line,
    stops,
    stops_table,
    word_error_rates,
)
from eeasr_modules.runtime import EarlyExitASR


@pytest.fixture
def asr(model_folder):
    return EarlyExitASR.from_pretrained(model_folder)


def test_every_exit_is_heard_in_turn_as_its_table_says(asr, audio_folder, table):
    heard = list(listen(asr, str(audio_folder / "u2.wav")))
    assert [one.n_reached for one in heard] == list(range(1, len(table.exit_layers) + 1))
    assert [one.is_done for one in heard] == [False] * (len(heard) - 1) + [True]
    assert list(heard[-1].texts) == list(table.hypotheses[2])
    assert heard[0].texts[1:] == ("",) * (len(heard) - 1)


def test_policies_stop_where_they_do_while_transcribing(asr, audio_folder):
    *_, hearing = listen(asr, str(audio_folder / "u1.wav"))
    found = stops(asr, hearing, budget=1.0)
    assert len(found) == len(asr.source.calibrated)
    for one, entry in zip(found, asr.source.calibrated, strict=True):
        live = EarlyExitASR.from_pretrained(asr.source.name, policy=str(entry.open_policy), budget=1.0)
        said = live.transcribe(audio_folder / "u1.wav")
        assert (one.policy, one.exit_layer, one.text) == (str(live.policy), said.exit_layer, said.text)
        assert one.layers_saved == pytest.approx(1 - said.exit_layer / said.n_layers)


def test_a_budget_that_no_threshold_keeps_is_said(asr, audio_folder):
    *_, hearing = listen(asr, str(audio_folder / "u1.wav"))
    found = stops(asr, hearing, budget=0.01)
    assert all(np.isnan(one.exit_layer) and "raise it" in one.why_not for one in found)
    assert "raise it" in stops_table(found)


def test_a_long_recording_is_heard_in_pieces_and_one_policy_is_asked(asr, wavs, tmp_path):
    seconds = ALL_POLICIES_UP_TO_S + 5
    one = np.concatenate([wav.numpy() for wav in wavs])
    soundfile.write(
        tmp_path / "long.wav", np.tile(one, int(seconds * 16000 / len(one)) + 1)[: int(seconds * 16000)], 16000
    )
    heard = list(listen(asr, str(tmp_path / "long.wav")))
    assert heard[-1].n_pieces >= 2 and heard[-1].duration_s == pytest.approx(seconds)
    assert "piece 2 of" in progress_line(heard[len(heard) // heard[-1].n_pieces])
    assert len(stops(asr, heard[-1], budget=1.0)) == 1


@pytest.mark.parametrize("content", [b"not audio", b""])
def test_what_is_not_audio_is_a_sentence(asr, tmp_path, content):
    (tmp_path / "note.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"note\.wav"):
        list(listen(asr, str(tmp_path / "note.wav")))


def test_a_reference_gives_rates_and_the_oracle(asr, audio_folder):
    *_, hearing = listen(asr, str(audio_folder / "u2.wav"))
    rates, oracle = word_error_rates(["A C", "A B", "A B"], "a, b!")
    assert (rates, oracle) == ([50.0, 0.0, 0.0], 1)
    page = exits_table(hearing, reference="a b c")
    assert page.count(" %</td>") == len(hearing.texts) and page.count("the oracle stops here") == 1
    assert "numbers written out" in exits_table(hearing, reference="12")
    assert " %</td>" not in exits_table(hearing)


def test_changed_words_are_marked_and_markup_is_text():
    assert marked_words("A <B> C", "A D C") == "A <mark>&lt;B&gt;</mark> C"
    assert marked_words("A B", None) == "A B"
    assert marked_words("A B", "") == "<mark>A</mark> <mark>B</mark>"
    assert marked_words("", "A") == ""


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
