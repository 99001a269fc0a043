"""The page on a training that is under way."""

import pytest

from eeasr_modules.cli import main
from eeasr_modules.report.render.live import live_page, read_train_log

LOG = """epoch: 1, lr: 1.000e-03 - train loss: 2.500, train loss_2: 3.000, train loss_4: 2.000 - valid loss: 2.000, valid loss_2: 2.2, valid loss_4: 1.8, valid WER_2: 1.020e+02, valid WER_4: 90.000
epoch: 2, lr: 5.000e-04 - train loss: 1.500, train loss_2: 2.000, train loss_4: 1.000 - valid loss: nan, valid loss_2: 2.1, valid loss_4: 1.7, valid WER_2: 95.000, valid WER_4: 80.000
epoch: 2, lr: 5.000e-04 - train loss: 1.400, train loss_2: 2.000, train loss_4: 1.000 - valid loss: 1.900, valid loss_2: 2.1, valid loss_4: 1.7, valid WER_2: 94.000, valid WER_4: 79.500
"""  # noqa: E501


@pytest.fixture
def run(tmp_path):
    (tmp_path / "train_log.txt").write_text(LOG)
    (tmp_path / "samples.txt").write_text("epoch 1\n  old\nepoch 2\n  a: <ONE>\n")
    return tmp_path


def test_epochs_are_read_the_later_line_for_the_earlier(run):
    first, second = read_train_log(run / "train_log.txt")
    assert (first["epoch"], first["valid WER_2"], first["lr"]) == (1.0, 102.0, 0.001)
    assert (second["valid WER_4"], second["train loss"], second["valid loss"]) == (79.5, 1.4, 1.9)


def test_the_page_shows_exits_curves_and_samples_and_reloads(run):
    page = live_page(run, refresh_s=7)
    assert "renew every 7 s" in page and "1000 * 7" in page and page.count("<svg") == 3
    assert page.count('role="img" aria-label="') == 3 and "@@" not in page
    assert "<td>94.00</td><td>79.50</td>" in page
    assert "&lt;ONE&gt;" in page and "old" not in page


def test_the_command_writes_it_beside_the_run(run, capsys, tmp_path):
    assert main(["report", str(run)]) == 0
    assert (run / "live.html").is_file() and "live.html" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "its first epoch writes it" in capsys.readouterr().err
