"""Every weight is one program's, and no program has much more than its share."""

import itertools

import torch
from kolmogram.kernels import shares as module
from kolmogram.kernels.shares import shares

BLOCK = 8_192


def test_segments_share_out_every_weight_once():
    tensors = [torch.zeros(n) for n in (0, 1, 100_000, 5, 8_192, 70_001)] + [torch.zeros(50_000)[1:]]
    for programs in (1, 3, 64):
        segments, ranges = (table.tolist() for table in shares(tensors, programs, BLOCK))
        assert ranges[0] == 0
        assert ranges[-1] == len(segments)
        assert ranges == sorted(ranges)
        assert len(ranges) == programs + 1
        for row, tensor in enumerate(tensors):
            mine = [(address + 4 * first, end - first) for address, first, end, r in segments if r == row]
            assert all(address % 16 == 0 for address, *_ in segments)
            position = tensor.data_ptr()
            for address, count in mine:
                assert address == position
                position += 4 * count
            assert position == tensor.data_ptr() + 4 * tensor.numel()
        share = max(sum(e - f for _, f, e, _ in segments[a:b]) for a, b in itertools.pairwise(ranges))
        assert share <= sum(t.numel() for t in tensors) / programs + 3 * BLOCK


def test_no_segment_is_longer_than_its_offsets_can_tell(monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 4 * 512)
    segments, _ = shares([torch.zeros(10_000), torch.zeros(3_000)], 1, 512)
    lengths = segments[:, 2] - segments[:, 1]
    assert int(lengths.max()) <= 4 * 512
    assert int(lengths.sum()) == 13_000
