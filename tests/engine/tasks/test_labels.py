"""Labels and signs, and numbers that stay where a CUDA graph reads them."""

import torch
from kolmogram.engine.tasks.labels import Redrawn, drawn_labels, drawn_signs

CPU = torch.device("cpu")
LOGITS = torch.randn(500, 7, generator=torch.Generator().manual_seed(3))


def test_signs_are_as_many_as_losses_and_as_often_one_as_the_other():
    signs = drawn_signs(torch.zeros(10_000, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert signs.dtype == torch.float64
    assert signs.abs().eq(1).all()
    assert abs(float(signs.mean())) < 4 / 100


def test_the_same_numbers_come_again_until_they_are_redrawn():
    redrawn = Redrawn()
    redrawn.manual_seed(1)
    labels, signs = drawn_labels(LOGITS, redrawn), drawn_signs(LOGITS[:, 0], redrawn)
    redrawn.rewind()
    assert torch.equal(drawn_labels(LOGITS, redrawn), labels)
    assert torch.equal(drawn_signs(LOGITS[:, 0], redrawn), signs)
    redrawn.redraw()
    redrawn.rewind()
    assert not torch.equal(drawn_labels(LOGITS, redrawn), labels)
    assert not torch.equal(drawn_signs(LOGITS[:, 0], redrawn), signs)


def test_they_are_those_of_any_generator_in_the_same_order():
    plain, redrawn = torch.Generator().manual_seed(2), Redrawn()
    redrawn.manual_seed(2)
    for turn in range(3):
        if turn:
            redrawn.redraw()
        redrawn.rewind()
        assert torch.equal(drawn_labels(LOGITS, redrawn), drawn_labels(LOGITS, plain))
        assert torch.equal(drawn_signs(LOGITS[:, 0], redrawn), drawn_signs(LOGITS[:, 0], plain))
    assert torch.equal(redrawn.get_state(), plain.get_state())


def test_they_lie_in_the_same_memory_as_long_as_there_are_as_many():
    redrawn = Redrawn()
    draw = lambda shape, generator, device: torch.rand(shape, generator=generator, device=device)  # noqa: E731
    first = redrawn.drawn(draw, (4,), CPU)
    before = first.clone()
    redrawn.redraw()
    redrawn.rewind()
    assert redrawn.drawn(draw, (4,), CPU) is first
    assert not torch.equal(first, before)
    redrawn.rewind()
    assert redrawn.drawn(draw, (5,), CPU).shape == (5,)
