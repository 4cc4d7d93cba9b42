import math

import pytest
from kolmogram.engine.report.labels import format_bytes, format_cell


@pytest.mark.parametrize(
    ("size", "text"), [(842, "842 B"), (21235, "21.2 kB"), (3.4e6, "3.4 MB"), (1.2e10, "12 GB"), (math.nan, "–")]
)
def test_sizes_for_people(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999.4, "999 B"),
        (999.6, "1 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (9.996e8, "1 GB"),
        (2.5e12, "2.5 TB"),
    ],
)
def test_the_unit_is_that_of_the_rounded_size(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("step", 12000, "12,000"),
        ("complexity_bytes@1.0", 21235.0, "21,235"),
        ("complexity_largest@1.0", 21235.0, "21,235"),
        ("loss", 0.12345, "0.1235"),
    ],
)
def test_cells_for_people(column, value, text):
    assert format_cell(column, value) == text
