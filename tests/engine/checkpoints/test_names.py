import torch
from hypothesis import given
from hypothesis import strategies as st
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.checkpoints.names import natural, strip_wrappers
from safetensors.torch import save_file

PARTS = st.sampled_from(["module", "model", "net", "_orig_mod", "_fsdp_wrapped_module", "a", "b", "weight"])
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=5).map(".".join), unique=True, max_size=6)


@given(names=NAMES, attributes=st.sampled_from([(), ("model", "net")]))
def test_every_name_gets_one_of_its_own(names, attributes):
    plain = strip_wrappers(names, attributes)
    assert list(plain) == names
    assert len(set(plain.values())) == len(names)
    assert all(plain.values())


@given(names=st.lists(st.sampled_from(["a.weight", "a.bias", "b.0.weight", "c"]), unique=True, min_size=1))
def test_every_wrapper_gives_the_names_of_the_module(names):
    for wrap in (
        "_orig_mod.{}",
        "module.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.module.{}",
        "_fsdp_wrapped_module.{}",
    ):
        assert list(strip_wrappers(wrap.format(name) for name in names).values()) == names
    assert list(strip_wrappers(f"model.{name}" for name in names).values()) == [f"model.{name}" for name in names]
    assert list(strip_wrappers((f"model.{name}" for name in names), ("model", "net")).values()) == names


def test_wrappers_inside_a_name_are_stripped():
    stored = ["layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.w", "head._orig_mod.w"]
    assert list(strip_wrappers(stored).values()) == ["layers.0.w", "head.w"]


def test_a_module_that_is_not_a_wrapper_keeps_its_name():
    assert list(strip_wrappers(["module.w", "n_averaged"]).values()) == ["module.w", "n_averaged"]


def test_names_that_would_collide_are_left_as_stored():
    assert list(strip_wrappers(["w", "_orig_mod.w", "_orig_mod.v"]).values()) == ["w", "_orig_mod.w", "v"]


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_names_can_be_ordered(names):
    ordered = sorted(names, key=natural)  # numbers and words must not meet in a comparison
    assert sorted(ordered) == sorted(names)


def test_numbers_sort_by_value():
    assert sorted(["s10", "s9", "s", "10", "9", "s9a"], key=natural) == ["9", "10", "s", "s9", "s9a", "s10"]


def test_names_agree_along_a_run(tmp_path):
    for step, prefix in enumerate(("", "_orig_mod.", "module.", "module._orig_mod.")):
        save_file(
            {f"{prefix}{name}": torch.ones(2) for name in ("a.weight", "b")}, tmp_path / f"step_{step}.safetensors"
        )
    assert {checkpoint.names() for checkpoint in open_run(tmp_path)} == {("a.weight", "b")}
