"""Text files of others, through the recipes that read them."""

import pytest

from eeasr_modules.common.text_files import read_lines, read_text
from eeasr_modules.training.corpora import load_recipe


def test_a_byte_order_mark_is_no_text_and_only_line_feeds_end_lines(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone\r\ntwo\u2028\x85still two\n", encoding="utf-8", newline="")
    assert read_lines(tmp_path / "a.txt") == ["one", "two\u2028\x85still two"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no\nété\n".encode("cp1252"), r"a\.txt' must be UTF-8 text, line 2 is not \(byte 0xe9\); .* WINDOWS-1252"),
        ("no\n".encode("utf-16"), r"line 1 looks like UTF-16: iconv -f UTF-16"),
        ("no\n".encode("utf-16-be"), r"line 1 looks like UTF-16"),
    ],
)
def test_another_encoding_is_named_with_its_line_and_what_to_do(tmp_path, content, says):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_text(tmp_path / "a.txt")


def test_a_byte_order_mark_costs_no_utterance_of_librispeech(root, tmp_path):
    import numpy as np
    import soundfile

    from eeasr_modules.data.manifest import read_manifest

    chapter = tmp_path / "c" / "dev-clean" / "1" / "2"
    chapter.mkdir(parents=True)
    for name in ("1-2-0000.wav", "._1-2-0000.wav"):
        soundfile.write(chapter / name, 0.1 * np.ones(1600), 16000)
    (chapter / "1-2.trans.txt").write_text("\ufeff1-2-0000 YES\n", encoding="utf-8")
    recipe = load_recipe(root / "recipes" / "LibriSpeech")
    made = recipe.prepare(tmp_path / "c", tmp_path / "out", splits=("dev-clean",))["dev-clean"]
    assert [(row.utt_id, row.text) for row in read_manifest(made)] == [("1-2-0000", "YES")]
