import pytest
from hypothesis import given
from hypothesis import strategies as st
from kolmogram.engine.checkpoints.steps import as_count, epoch_in_name, numbers, step_in_name

COUNTS = st.integers(0, 10**12)
LAYOUTS = [
    "checkpoint-{}/model.safetensors",
    "checkpoint-{}/pytorch_model.bin.index.json",
    "step-{:08d}.safetensors",
    "step_{}.pt",
    "step{}/model.safetensors",
    "epoch=3-step={}.ckpt",
    "lightning_logs/version_0/checkpoints/epoch=3-step={}.ckpt",
    "global_step{}/mp_rank_00_model_states.pt",
    "global_step_{}/actor.pt",
    "iter_{:07d}/model.pt",
    "stage1-step{}-tokens424B/model.safetensors",
    "model_{:06d}.pt",
    "theta.{}.npz",
    "ckpt_{}.pth.tar",
    "checkpoint_{}",
    "{}/default/params.npz",
    "{}.pt",
    "step_{:024d}.pt",
]


@pytest.mark.parametrize("layout", LAYOUTS)
@given(step=COUNTS)
def test_every_layout_says_its_step(layout, step):
    assert step_in_name(layout.format(step)) == step


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "gpt2.pt",
        "resnet50.pth",
        "last.ckpt",
        "last-v1.ckpt",
        "best_acc_0.95.pt",
        "epoch=3.ckpt",
        "epoch_12_model-3.pt",
        "seed-3/model.pt",
        "step10k.pt",
        "step1.5M.pt",
        "step=1.5.pt",
        "step3,000.pt",
        "ckpt-00010-of-00020.pt",
        "version_0/final.pt",
        "footstep.pt",
        "model_20240131123456789012.safetensors",
        "step_20240131123456789012.pt",
        "20240131123456789012/model.pt",
    ],
)
def test_other_numbers_are_not_steps(name):
    assert step_in_name(name) is None


def test_the_nearest_name_wins():
    assert step_in_name("steps_5000/checkpoint-100/model.safetensors") == 100
    assert step_in_name("step_100/model_0.pt") == 100
    assert step_in_name("500/model_20240131123456789012.pt") == 500


def test_epochs():
    assert epoch_in_name("a/epoch=12.ckpt") == 12
    assert epoch_in_name("model_ep003.pt") == 3
    assert epoch_in_name("model.pt") is None
    assert epoch_in_name("epoch_20240131123456789012.pt") is None


@given(st.text(max_size=40))
def test_any_name_has_a_step_or_none(name):
    step = step_in_name(name)
    assert step is None or step >= 0


@given(COUNTS)
def test_counts(step):
    assert as_count(step) == as_count(str(step)) == step
    assert as_count(float(step)) == step


@pytest.mark.parametrize(
    "value", [True, False, -1, 1.5, float("nan"), float("inf"), "x", "-1", "", "9" * 40, None, [1], "²"]
)
def test_what_is_not_a_count(value):
    assert as_count(value) is None


def test_numbers_are_numbers():
    said = {
        "loss": 0.5,
        "epoch": "3",
        "step": 7,
        "flag": True,
        "format": "pt",
        "huge": 10**400,
        "none": None,
        "list": [1],
    }
    assert numbers(said) == {"loss": 0.5, "epoch": 3.0}
