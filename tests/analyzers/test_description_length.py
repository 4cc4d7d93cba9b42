"""Prefix codes are prefix codes, and lengths add up."""

import math
from itertools import pairwise

import pytest
from kolmogram.analyzers.description_length import describe_labels, elias_omega_bits, prefix_bits


def elias_omega(number):
    """The code word itself, from the definition (Elias 1975)."""
    word = "0"
    while number > 1:
        group = f"{number:b}"
        word, number = group + word, len(group) - 1
    return word


def test_lengths_are_those_of_the_words_and_no_word_begins_another():
    words = [elias_omega(number) for number in range(1, 600)]
    assert [elias_omega_bits(number) for number in range(1, 600)] == [len(word) for word in words]
    ordered = sorted(words)
    assert not any(after.startswith(before) for before, after in pairwise(ordered))


def test_files_as_words_satisfy_krafts_inequality_and_files_alone_do_not():
    """There are 2^(8·size) files of each size."""
    assert 0.5 < sum(2.0 ** (8 * size - prefix_bits(size)) for size in range(5000)) <= 1
    assert sum(2.0 ** (8 * size - 8 * size) for size in range(5000)) > 1


def test_the_length_costs_little_and_longer_files_cost_more():
    sizes = [0, 1, 2, 3, 100, 4738, 10**6]
    bits = [prefix_bits(size) for size in sizes]
    assert bits == sorted(bits)
    assert all(8 * size < b <= 8 * size + 40 for size, b in zip(sizes, bits, strict=True))


def test_no_code_for_what_is_not_positive():
    with pytest.raises(ValueError, match="positive"):
        elias_omega_bits(0)


def test_a_network_that_knows_nothing_costs_its_file():
    nothing = describe_labels(100, nats=1000 * math.log(7), examples=1000, classes=7)
    assert nothing.label_bits == pytest.approx(nothing.uniform_bits)
    assert nothing.ratio == pytest.approx(1 + prefix_bits(100) / (1000 * math.log2(7)))


def test_a_network_that_knows_everything_leaves_its_file():
    certain = describe_labels(100, nats=0.0, examples=1000, classes=7)
    assert certain.total_bits == certain.model_bits == prefix_bits(100)
    assert certain.ratio < 1
