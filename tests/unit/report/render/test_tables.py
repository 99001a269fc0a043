"""Numbers in Markdown."""

from eeasr_modules.report.render.tables import markdown_table, number, percent


def test_bars_in_cells_do_not_open_new_ones():
    assert markdown_table(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


def test_what_is_not_known_is_a_dash_and_no_zero_is_negative():
    assert (number(None), percent(None)) == ("-", "-")
    assert percent(-0.001) == "0 %"
