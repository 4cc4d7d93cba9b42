import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.errors import CheckpointError
from torch import nn

CONTAINERS = {"zip": True, "stream": False}


@pytest.fixture(params=CONTAINERS)
def save(request):
    def write(payload, path, **options):
        torch.save(payload, path, _use_new_zipfile_serialization=CONTAINERS[request.param], **options)
        return path

    return write


def trained():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 3)).square().sum().backward()
    optimiser.step()
    return model, optimiser


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, state, assert_same, save):
    save(state, tmp_path / "model.pt")
    (checkpoint,) = open_run(tmp_path)
    assert_same(checkpoint, state)
    assert checkpoint.format == "torch"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, state, assert_same, save, protocol):
    save(state, tmp_path / "model.pt", pickle_protocol=protocol)
    assert_same(open_run(tmp_path)[0], state)


def test_views_of_one_storage_are_cut_out_of_it(tmp_path, assert_same, save):
    base = torch.arange(24.0).reshape(4, 6)
    state = {"rows": base[1:3], "columns": base[:, ::2], "turned": base.t(), "parameter": nn.Parameter(base[:, 3])}
    save(state, tmp_path / "model.pt")
    assert_same(open_run(tmp_path)[0], state)


def test_tied_storage_is_given_once(tmp_path, save):
    embedding = torch.randn(5, 4)
    state = {"wte.weight": embedding, "head.bias": torch.zeros(5), "head.weight": embedding, "half": embedding[:2]}
    save(state, tmp_path / "model.pt")
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.names() == ("wte.weight", "head.bias", "half")
    assert checkpoint.aliases == {"head.weight": "wte.weight"}


def test_many_views_of_the_same_bytes_are_no_large_model(tmp_path, save):
    base = torch.zeros(1 << 20)
    views = {f"view.{index}": base[index:] for index in range(20)}
    with pytest.raises(
        CheckpointError, match=r"its tensors overlap: together they have 838\d{5} bytes, the file has 4"
    ):
        open_run(save(views, tmp_path / "a.pt"))


def test_a_fused_matrix_its_parts_and_ties_are_no_attack(tmp_path, save):
    base = torch.zeros(3 << 19, 3)
    parts = dict(zip(("query", "key", "value"), base.chunk(3), strict=True))
    ties = {f"tie.{index}": base for index in range(20)}
    path = save({"fused": base, "turned": base.t(), "flat": base.view(-1), **parts, **ties}, tmp_path / "a.pt")
    assert len(open_run(path)[0].names()) == 6


def test_the_optimiser_is_never_read(tmp_path, save):
    model, optimiser = trained()
    path = save({"model": model.state_dict(), "optimizer": optimiser.state_dict(), "step": 40}, tmp_path / "a.pt")
    moments = optimiser.state[model[0].weight]["exp_avg"].numpy().tobytes()
    data = path.read_bytes()
    assert data.count(moments) == 1
    path.write_bytes(data.replace(moments, b"\xff" * len(moments)))
    (checkpoint,) = open_run(path)
    assert set(checkpoint.names()) == set(model.state_dict())
    assert checkpoint.skipped == {"optimizer": "training state, never read"}
    assert checkpoint.step == 40
    for name, tensor in checkpoint.items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_nanogpt(tmp_path, assert_same, save):
    model, optimiser = trained()
    state = model.state_dict()
    payload = {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "optimizer": optimiser.state_dict(),
        "model_args": {"n_layer": 1, "bias": False},
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out"},
    }
    save(payload, tmp_path / "ckpt.pt")
    (checkpoint,) = open_run(tmp_path)
    assert (checkpoint.format, checkpoint.step, checkpoint.metrics) == ("nanogpt", 250, {"best_val_loss": 1.5})
    assert_same(checkpoint, state)


def test_a_whole_pickled_module_is_read_without_its_class(tmp_path, assert_same, save):
    model, _ = trained()
    model.register_buffer("passing", torch.ones(2), persistent=False)
    save(model, tmp_path / "model_10.pt")
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.step == 10
    assert_same(checkpoint, model.state_dict())


def test_objects_of_any_class_are_no_obstacle(tmp_path, assert_same, save):
    state = {"w": torch.ones(2)}
    payload = {"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1e-3), "root": Path("/x"), "set": {1, 2}}
    save(payload, tmp_path / "a.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert_same(open_run(tmp_path)[0], state)


def test_several_networks_keep_their_names_apart(tmp_path, assert_same, save):
    state = {"w": torch.ones(2), "b": torch.zeros(3)}
    save(
        {"generator": state, "critic": {"w": torch.ones(4)}, "rng_state": torch.get_rng_state(), "epoch": 3},
        tmp_path / "a.pt",
    )
    (checkpoint,) = open_run(tmp_path)
    assert_same(checkpoint, {"generator.w": state["w"], "generator.b": state["b"], "critic.w": torch.ones(4)})
    assert checkpoint.step == 3
    assert checkpoint.metrics == {"epoch": 3.0}


def test_only_the_model_is_taken_where_a_copy_lies_beside_it(tmp_path, assert_same, save):
    state = {"w": torch.ones(2)}
    save({"best": {"w": torch.zeros(2)}, "model": state, "model_ema": {"w": torch.zeros(2)}}, tmp_path / "a.pt")
    (checkpoint,) = open_run(tmp_path)
    assert_same(checkpoint, state)
    assert checkpoint.skipped.keys() == {"best", "model_ema"}


def test_tensors_that_are_not_plain_elements_are_skipped_by_name(tmp_path, save):
    import numpy as np

    sparse = torch.eye(3).to_sparse()
    state = {"w": torch.ones(2), "sparse": sparse, "meta": torch.ones(2, device="meta"), "array": np.ones(3)}
    save(state, tmp_path / "a.pt")
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.names() == ("w",)
    assert checkpoint.skipped.keys() == {"sparse", "meta", "array"}


@pytest.mark.parametrize(
    "payload", [torch.ones(3), {"lr": 0.1}, argparse.Namespace(a=1), [], {"optimizer": {"m": torch.ones(2)}}]
)
def test_files_without_weights_say_so(tmp_path, save, payload):
    save(payload, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no checkpoint of a model"):
        open_run(tmp_path / "a.pt")


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def canary(tmp_path):
    return tmp_path / "the-pickle-ran"


@pytest.mark.parametrize("place", ["alone", "beside", "inside", "as key"])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, save, place):
    touched = canary(tmp_path)
    hostile = Hostile(os.system, f"touch {touched}")
    payload = {
        "alone": hostile,
        "beside": {"model": {"w": torch.ones(2)}, "x": hostile},
        "inside": {"w": torch.ones(2), "v": hostile},
        "as key": {"w": torch.ones(2), "v": [{"x": hostile}]},
    }[place]
    path = save(payload, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"would run posix\.system when loaded \(nothing was run\)"):
        open_run(path)
    assert not touched.exists()


@pytest.mark.parametrize(
    "hostile",
    [
        Hostile(eval, "open('the-pickle-ran', 'w')"),
        Hostile(exec, "open('the-pickle-ran', 'w')"),
        Hostile(__import__, "this"),
        Hostile(open, "the-pickle-ran", "w"),
    ],
    ids=["eval", "exec", "import", "open"],
)
def test_builtins_that_run_code_are_named(tmp_path, save, hostile, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="would run"):
        open_run(save({"w": torch.ones(2), "x": hostile}, tmp_path / "a.pt"))
    assert not canary(tmp_path).exists()


def test_a_function_that_is_on_no_list_is_not_called_either(tmp_path, save, assert_same):
    touched = canary(tmp_path)
    save({"w": torch.ones(2), "x": Hostile(Path.touch, touched)}, tmp_path / "a.pt")
    assert_same(open_run(tmp_path)[0], {"w": torch.ones(2)})
    assert not touched.exists()


def test_a_bare_pickle_is_not_a_checkpoint(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(CheckpointError, match=r"not of torch\.save"):
        open_run(tmp_path)


def rewritten(path, change):
    """The zip archive at `path` with `change(name, data) -> data | None` applied to its records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            changed = change(name.partition("/")[2], data)
            if changed is not None:
                archive.writestr(name, changed)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, data: None if name == "data/0" else data, "'data/0' is missing"),
        (lambda name, data: None if name == "data.pkl" else data, "no data.pkl"),
        (lambda name, data: data[:8] if name == "data/0" else data, "past its storage"),
        (lambda name, data: b"big" if name == "byteorder" else data, "big-endian"),
        (lambda name, data: data[:-20] if name == "data.pkl" else data, "failed"),
    ],
)
def test_archives_that_lie_give_one_line(tmp_path, change, words):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(10)}, path)
    with pytest.raises(CheckpointError, match=words):
        open_run(rewritten(path, change))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_named(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_run(tmp_path / "a.pt")


def test_an_expanded_tensor_cannot_fill_the_memory(tmp_path, save):
    save({"w": torch.ones(3), "expanded": torch.zeros(1).expand(2**40)}, tmp_path / "a.pt")
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.names() == ("w",)
    assert "repeats 4 bytes" in checkpoint.skipped["expanded"]


def test_a_dtype_that_is_not_read_is_skipped_by_name(tmp_path, save):
    save(
        {"w": torch.ones(3), "packed": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
        tmp_path / "a.pt",
    )
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.names() == ("w",)
    assert "float4" in checkpoint.skipped["packed"]


def test_an_ordered_dict_of_python_2_keeps_its_items(tmp_path, assert_same):
    """There it was pickled as a call with a list of pairs."""
    path = tmp_path / "a.pt"
    torch.save([["w", torch.ones(3)]], path)
    structure = b"\x80\x02ccollections\nOrderedDict\n"

    def wrap(name, data):
        return structure + data.removeprefix(b"\x80\x02").removesuffix(b".") + b"\x85R." if name == "data.pkl" else data

    assert_same(open_run(rewritten(path, wrap))[0], {"w": torch.ones(3)})


def test_text_and_emptiness_give_one_line(tmp_path):
    (tmp_path / "text.pt").write_text("these are\nnot weights")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"text.pt: is not a torch\.save file .*these are\\nnot"):
        open_run(tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match="is empty"):
        open_run(tmp_path / "empty.ckpt")


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02}X\x01\x00\x00\x00w" + b")" + b"2\x86" * 60 + b"s.",
        b"\x80\x02]" * 1 + b"]" * 50_000 + b"a" * 50_000 + b".",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
        b"\x80\x02" + b")" + b"2\x86" * 60 + b"2\x93.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(X\x00\x00\x00\x00K\x00)" + b"2\x86" * 60 + b"tR.",
        b"\x80\x02]\x94h\x00a.",
    ],
    ids=["shared tuples", "deep lists", "memo index", "long string", "shared name", "shared shape", "cycle"],
)
def test_pickles_made_to_exhaust_us_give_one_line_at_once(tmp_path, program):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(10)}, path)
    rewritten(path, lambda name, data: program if name == "data.pkl" else data)
    with pytest.raises(CheckpointError):
        open_run(path)
    preamble = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(item, 2) for item in preamble) + program + pickle.dumps([], 2))
    with pytest.raises(CheckpointError):
        open_run(path)


@pytest.mark.parametrize(("depth", "tensors"), [(60, 1), (1, 20_000)], ids=["deep", "wide"])
def test_one_long_key_cannot_become_many_long_names(tmp_path, save, depth, tensors):
    key, part = "k" * 4000, [torch.ones(1)] * tensors
    for _ in range(depth):
        part = {key: part}
    with pytest.raises(CheckpointError, match=r"failed \(ValueError: .*names? .* more than \d+ characters"):
        open_run(save({"model": part}, tmp_path / "a.pt"))


def test_a_long_key_that_names_no_tensor_is_nobodys_concern(tmp_path, save, assert_same):
    answers = {"question " * 1000: {"answer": 1}}
    save({"model": {"w": torch.ones(2)}, "answers": answers}, tmp_path / "a.pt")
    assert_same(open_run(tmp_path)[0], {"w": torch.ones(2)})


def test_a_storage_key_that_is_too_deep_to_be_hashed(tmp_path):
    pickles = [pickle.dumps(item, 2) for item in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {})]
    keys = b"\x80\x02])" + b"\x85" * 150_000 + b"a."
    (tmp_path / "a.pt").write_bytes(b"".join(pickles) + keys)
    with pytest.raises(CheckpointError, match="names a storage by something else than text"):
        open_run(tmp_path)
