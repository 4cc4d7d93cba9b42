"""Two-part description length: a network and the labels it leaves over, against the labels alone.

    total = bits of the model file, as a prefix code + Σᵢ −log₂ p(yᵢ | xᵢ, decoded model)

(Rissanen 1978; Grünwald 2007, The Minimum Description Length Principle). The inputs are known to both sides. The
second part is the ideal code length: an arithmetic coder for all labels together needs at most 2 bits more.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DescriptionLength:
    """Bits that hand over all labels of a data set to somebody who has the inputs."""

    model_bits: float
    """The file and its length."""
    label_bits: float
    """Labels given the decoded model."""
    uniform_bits: float
    """The labels alone: examples · log₂(classes)."""

    @property
    def total_bits(self) -> float:
        """Model and labels."""
        return self.model_bits + self.label_bits

    @property
    def ratio(self) -> float:
        """Total over the labels alone: below 1 the network compresses its data."""
        return self.total_bits / self.uniform_bits


def describe_labels(size: int, nats: float, examples: int, classes: int) -> DescriptionLength:
    """Labels of `examples` examples through a file of `size` bytes that leaves `nats` of loss, summed over examples."""
    return DescriptionLength(prefix_bits(size), nats / math.log(2), examples * math.log2(classes))


def prefix_bits(size: int) -> int:
    """Bits of a file of `size` bytes as a word of a prefix code: its length in Elias' ω code, then its content.

    A file alone is no code word: where it ends is told by the file system. The words satisfy Kraft's inequality,
    Σ 2^−bits ≤ 1 over all byte strings, because the ω code does and there are 2^(8·size) strings of each size.
    """
    return elias_omega_bits(size + 1) + 8 * size  # + 1: the ω code begins at one, files at zero bytes


def elias_omega_bits(number: int) -> int:
    """Length of a positive integer in Elias' ω code (Elias 1975): a prefix code for all of them."""
    if number < 1:
        raise ValueError(f"Elias' code is for positive integers, not {number}")
    bits = 1
    while number > 1:
        bits += number.bit_length()
        number = number.bit_length() - 1
    return bits
