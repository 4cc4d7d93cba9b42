"""Adding a measure is a file, a test and a row in the docs: this checks the last two."""

from pathlib import Path

import pytest
from kolmogram.analyzers import ANALYZERS, unit_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ANALYZERS)
def test_every_measure_has_a_test_file(name):
    assert (ROOT / "tests" / "analyzers" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", ANALYZERS)
def test_every_value_is_documented_with_its_unit(name):
    text = (ROOT / "docs" / "measures.md").read_text()
    for value, unit in ANALYZERS[name].units.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{value}")), None)
        assert row is not None, f"docs/measures.md has no row for {value}"
        assert f"| {unit} |" in row


def test_units_by_value_name():
    assert unit_of("complexity_bytes@0.25") == "bytes"
    assert unit_of("spectral_entropy") == "nats"
    assert unit_of("of another program") == ""


def test_no_two_measures_give_the_same_value():
    names = [value for measure in ANALYZERS.values() for value in measure.units]
    assert len(names) == len(set(names))
