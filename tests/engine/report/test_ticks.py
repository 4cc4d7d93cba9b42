import pytest
from kolmogram.engine.report.ticks import step_ticks


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        ((0, 10, 100, 1000, 10000), {5: "0", 10: "10", 100: "100", 1000: "1,000", 10000: "10,000"}),
        (range(200, 901, 100), {200: "200", 300: "300", 500: "500", 700: "700"}),
        ((10, 20, 60), {10: "10", 20: "20", 30: "30", 50: "50"}),
        ((600, 640), {600: "600", 640: "640"}),
        ((7,), {1: "1"}),
    ],
)
def test_steps_have_plain_labels(make, steps, labels):
    assert step_ticks([make(steps=tuple(steps), task=False, broken=False)])[0] == labels
