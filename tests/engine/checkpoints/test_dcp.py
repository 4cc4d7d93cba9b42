"""torch.distributed.checkpoint: written by torch, by one process and by two, and then spoilt."""

import os
import pickle
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.checkpoints.readers.dcp import Chunk, _cover
from kolmogram.engine.errors import CheckpointError
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def save(state, folder):
    dcp.save(state, checkpoint_id=folder, no_dist=True)


def optimiser_state():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def test_every_type_bit_for_bit(tmp_path, state, assert_same):
    save({"model": state, "optim": optimiser_state(), "step": 7, "loss": 0.25}, tmp_path / "last")
    (checkpoint,) = open_run(tmp_path)
    assert (checkpoint.format, checkpoint.step, checkpoint.metrics) == ("dcp", 7, {"loss": 0.25})
    assert checkpoint.skipped == {"optim": "training state, never read"}
    assert_same(checkpoint, state)


def test_a_model_that_lies_flat_beside_its_training_state(tmp_path, state, assert_same):
    """As torchtitan saves it."""
    progress = {"step": torch.tensor(300), "ntokens_seen": 4096}
    rest = {"optimizer": optimiser_state(), "lr_scheduler": {"last_epoch": 3}, "dataloader": {"dp_rank_0": b"x" * 99}}
    save({**state, "train_state": progress, **rest}, tmp_path / "anything")
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.step == 300
    assert_same(checkpoint, state)


def test_a_step_from_the_folders_name_and_an_optimisers_folder(tmp_path, state, assert_same):
    """As accelerate saves it under Hugging Face's Trainer."""
    for step in (10, 5):
        save({"model": state}, tmp_path / f"checkpoint-{step}" / "pytorch_model_fsdp_0")
        save({"optimizer": optimiser_state()}, tmp_path / f"checkpoint-{step}" / "optimizer_0")
    run = open_run(tmp_path)
    assert [checkpoint.step for checkpoint in run] == [5, 10]
    assert not run.problems
    assert_same(run[0], state)


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Linear(7, 3, bias=False)).bfloat16()
        whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        mesh = init_device_mesh("cpu", (2,))
        fully_shard(model, mesh=mesh)
        state = dict(model.state_dict())  # seven rows on two ranks
        table = torch.arange(40.0).reshape(5, 8)
        whole |= {"columns": table, "everywhere": table + 1}
        state |= {"columns": distribute_tensor(table, mesh, [Shard(1)])}
        state |= {"everywhere": distribute_tensor(table + 1, mesh, [Replicate()])}
        dcp.save({"app": {"model": state, "optim": {}}}, checkpoint_id=folder / "step-4")
        if rank == 0:
            torch.save(whole, folder / "whole.tensors")
        dist.barrier()  # gloo can abort a process that leaves while the other still talks to it
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_shards_of_two_processes_make_up_the_tensors(tmp_path, assert_same):
    torch.multiprocessing.spawn(work, args=(tmp_path,), nprocs=2)
    assert len(list((tmp_path / "step-4").glob("*.distcp"))) == 2
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.step == 4
    whole = torch.load(tmp_path / "whole.tensors")
    assert_same(checkpoint, {f"model.{name}": tensor for name, tensor in whole.items()})


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "step-1"
    save({"model": {"w": torch.ones(4, 5), "b": torch.zeros(3)}}, folder)
    return folder


def refused(folder, *, when=open_run):
    with pytest.raises(CheckpointError) as error:
        when(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewrite(folder, change):
    """The metadata with a change, by the library's own classes."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_without_metadata(saved):
    (saved / ".metadata").unlink()
    assert "has no .metadata" in refused(saved)


def test_a_file_that_was_not_copied(saved):
    other = saved / "__1_0.distcp"
    other.write_bytes(b"x")
    (saved / "__0_0.distcp").unlink()
    assert "'__0_0.distcp' is missing" in refused(saved)


def test_a_truncated_file(saved):
    file = saved / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-10])
    assert "truncated" in refused(saved)


def test_chunks_that_do_not_make_up_the_tensor(saved):
    def longer(metadata):
        metadata.state_dict_metadata["model.w"].size = torch.Size([8, 5])

    rewrite(saved, longer)
    assert "the chunks of tensor 'model.w' do not make it up" in refused(saved)


def test_chunks_that_overlap(saved):
    def twice(metadata):
        item = metadata.state_dict_metadata["model.w"]
        item.size = torch.Size([8, 5])
        item.chunks = item.chunks * 2

    rewrite(saved, twice)
    assert "do not make it up" in refused(saved)


def test_chunks_that_lie_outside_of_the_tensor(saved):
    def lower(metadata):
        place = torch.Size([2, 0])
        metadata.state_dict_metadata["model.w"].chunks[0].offsets = place
        metadata.storage_data = {
            replace(index, offset=place) if index.fqn == "model.w" else index: info
            for index, info in metadata.storage_data.items()
        }

    rewrite(saved, lower)
    assert "the chunks of tensor 'model.w' do not make it up" in refused(saved)


def grid(shape, size):
    """Chunks that make up a tensor; no file is behind them."""
    origins = product(*(range(0, length, step) for length, step in zip(shape, size, strict=True)))
    return [
        Chunk(None, at, tuple(min(a + step, end) - a for a, step, end in zip(at, size, shape, strict=True)))
        for at in origins
    ]


@pytest.mark.parametrize(("shape", "size"), [((), ()), ((7,), (3,)), ((90, 70), (1, 2)), ((5, 6, 7, 8), (2, 3, 3, 1))])
def test_chunks_cover_a_tensor_just_when_each_element_is_in_one(shape, size):
    chunks = grid(shape, size)
    assert _cover(shape, chunks)
    assert not _cover(shape, chunks[1:])
    assert not _cover(shape, [*chunks, chunks[-1]])
    if len(chunks) > 1:  # of the right volume
        assert not _cover(shape, [chunks[0], chunks[0], *chunks[2:]])
        assert not _cover(tuple(2 * n for n in shape), chunks * 2 ** len(shape))


def test_cuts_need_not_go_through():
    pinwheel = [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))]
    assert _cover((3, 3), [Chunk(None, *chunk) for chunk in pinwheel])


def test_one_part_of_a_file_for_two_tensors(saved):
    def shared(metadata):
        one, other = metadata.storage_data.values()
        one.offset, one.length = other.offset, other.length

    rewrite(saved, shared)
    assert "two of its parts share bytes of '__0_0.distcp'" in refused(saved)


def test_a_part_that_is_smaller_than_its_chunk(saved):
    def grown(metadata):
        item = metadata.state_dict_metadata["model.w"]
        item.size = item.chunks[0].sizes = torch.Size([2**20, 2**20])

    rewrite(saved, grown)
    assert "a part of tensor 'model.w' is too short for it" in refused(saved)


def test_places_that_are_not_in_the_folder(saved):
    def elsewhere(metadata):
        for info in metadata.storage_data.values():
            info.relative_path = "../../../etc/passwd"

    rewrite(saved, elsewhere)
    assert "which is no file of a rank" in refused(saved)


def test_a_place_that_holds_another_tensor(saved):
    def exchanged(metadata):
        one, other = metadata.storage_data.values()
        one.offset, other.offset = other.offset, one.offset
        one.length, other.length = other.length, one.length

    rewrite(saved, exchanged)
    (checkpoint,) = open_run(saved)
    assert "tensor 'model.w' is not where .metadata says" in refused("w", when=checkpoint.tensor)


def test_a_type_that_is_not_the_files(saved):
    def halved(metadata):
        metadata.state_dict_metadata["model.w"].properties.dtype = torch.float16

    rewrite(saved, halved)
    (checkpoint,) = open_run(saved)
    assert "is not where .metadata says" in refused("w", when=checkpoint.tensor)


def test_metadata_that_would_run_code(saved, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'executed'}",))

    (saved / ".metadata").write_bytes(pickle.dumps(Hostile()))
    assert "would run" in refused(saved)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": 1}), pickle.dumps([1])])
def test_metadata_that_is_none(saved, content):
    (saved / ".metadata").write_bytes(content)
    refused(saved)


def test_a_key_that_is_too_deep_to_be_hashed(saved):
    deep = b")" + b"\x85" * 150_000
    index = b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n)\x81}X\x03\x00\x00\x00fqn" + deep + b"sb"
    (saved / ".metadata").write_bytes(b"\x80\x02}" + index + b"Ns.")
    assert "is not the metadata" in refused(saved)


@pytest.mark.parametrize("place", ["file", "path", "dtype"])
def test_tuples_whose_text_would_fill_the_memory(saved, place):
    def doubled(metadata):
        shared = ()
        for _ in range(60):
            shared = (shared, shared)
        if place == "file":
            next(iter(metadata.storage_data.values())).relative_path = shared
        elif place == "path":
            metadata.planner_data = dict.fromkeys(metadata.planner_data, (shared,))
        else:
            for item in metadata.state_dict_metadata.values():
                item.properties.dtype = shared

    rewrite(saved, doubled)
    if place == "path":
        assert set(open_run(saved)[0].names()) == {"model.w", "model.b"}
    else:
        refused(saved)


def test_an_optimiser_alone_is_no_checkpoint(tmp_path):
    save({"optim": optimiser_state()}, tmp_path / "step-1")
    assert "holds no weights" in refused(tmp_path)


def test_damage_anywhere_is_one_line(saved):
    """Bytes of the metadata changed one after the other: a CheckpointError, or the weights."""
    good, said = (saved / ".metadata").read_bytes(), []
    for place in range(0, len(good), 7):
        (saved / ".metadata").write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            for checkpoint in open_run(saved):
                dict(checkpoint.items())
        except CheckpointError as error:
            said.append(str(error))
    assert said
    assert not any("\n" in line for line in said)
