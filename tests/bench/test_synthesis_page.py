"""The tables of docs/synthesis.md are updated row by row."""

import pytest

from bench.synthesis_page import table_rows, update_totals, update_units, update_usage

TEXT = """before
<!-- begin units -->
| unit | MHz | target | met | LUT | FF | DSP | BRAM |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| a | 90.0 | 80 | yes | 1 | 2 | 3 | 4 |
| gone | 90.0 | 80 | yes | 1 | 2 | 3 | 4 |
<!-- end units -->
between
<!-- begin totals -->
| core | LUT | FF | DSP | BRAM |
| --- | ---: | ---: | ---: | ---: |
<!-- end totals -->
after
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(TEXT)
    return path


def _unit(name, fmax):
    return {"unit": name, "fmax": fmax, "target": 80.0, "LUT": 5, "FF": 6, "DSP": 7, "BRAM": 8}


def test_a_unit_is_merged_in_the_order_of_the_units(page):
    update_units([_unit("c", 79.9), _unit("b", 80.0)], ["a", "b", "c"], page)
    rows = table_rows(page.read_text(), "units")
    assert list(rows) == ["a", "b", "c"]
    assert rows["a"] == ["a", "90.0", "80", "yes", "1", "2", "3", "4"]
    assert rows["b"] == ["b", "80.0", "80", "yes", "5", "6", "7", "8"]
    assert rows["c"][3] == "**no**"
    assert [line for line in page.read_text().splitlines() if line[0] not in "|<"] == ["before", "between", "after"]


def test_totals_carry_shares_and_keep_other_cores(page):
    update_totals("small", (1, 2, 3, 4), (4, 4, 4, 4), page)
    update_totals("big", (8, 8, 8, 8), (4, 4, 4, 4), page)
    rows = table_rows(page.read_text(), "totals")
    assert list(rows) == ["big", "small"]
    assert rows["small"][1:] == ["1 (25%)", "2 (50%)", "3 (75%)", "4 (100%)"]
    assert rows["big"][1] == "8 (200%)"


def test_a_missing_table_is_an_error(page):
    with pytest.raises(ValueError, match="no table between <!-- begin ecp5 -->"):
        update_usage("ecp5", [(0, "top", (1, 2, 3, 4))], page)
