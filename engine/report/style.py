"""Colours that the page and the paper figure share: readable in print, on a projector, and by colour-blind people."""

INK = "#17212b"
MUTED = "#6c7884"
HAIRLINE = "#e3e7eb"

TRAIN = "#9db1c2"
TEST = "#1f6fb5"
COMPLEXITY = "#c9304a"
MEASURE = "#2b3a47"

RUNS = ("#c9304a", "#1f6fb5", "#2b8c6b", "#d68a1c", "#7b57b2", "#546472")
"""One colour per run where several are compared."""

TENSORS = (
    "#1f6fb5", "#c9304a", "#e2a03f", "#2b8c6b", "#7b57b2", "#5fb0c9", "#e58a9b", "#8aa63c", "#a5673f", "#4a5a68",
    "#b9a3dc", "#f0c987",
)  # fmt: skip
"""One colour per tensor, largest first; what comes after these is drawn grey."""

OTHERS = "#c9d1d8"

BAND = 0.2
"""Opacity of what lies between the smallest and the largest of several searches."""


def role_colour(role: str, rank: int = 0) -> str:
    """The colour of a line by its role; further lines of a role are lighter."""
    colour = {"train": TRAIN, "test": TEST, "complexity": COMPLEXITY}.get(role, MEASURE)
    return lighten(colour, min(0.75, 0.4 * rank)) if role in ("complexity", "measure") else colour


def lighten(colour: str, amount: float) -> str:
    """Mix a colour with white: 0 leaves it, 1 is white."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * amount):02x}" for channel in channels)
