"""The search works on the host; the network and its data may lie on a GPU. This is the way there."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Placement:
    """Puts weights on the device that the network came from, each once for as long as it lives.

    Of the networks that a search tries one after the other, all but one tensor are the same. A task whose data are on a
    GPU says so (`data_on`), and a network that came from elsewhere goes there.
    """

    def __init__(self, original: Mapping[str, Tensor], data_on: torch.device | str = "cpu") -> None:
        self.device = next((value.device for value in original.values()), torch.device("cpu"))
        if torch.device(data_on).type != "cpu":
            self.device = torch.empty(0, device=data_on).device  # with its number, as tensors name theirs
        self._placed = WeakIdKeyDictionary()

    def __call__(self, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return params if self.device.type == "cpu" else {name: self._copy(value) for name, value in params.items()}

    def _copy(self, value: Tensor) -> Tensor:
        if value.device == self.device:
            return value
        placed = self._placed.get(value)
        if placed is None:
            placed = self._placed[value] = value.to(self.device, non_blocking=True)  # nobody waits
        return placed
