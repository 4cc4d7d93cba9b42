from kolmogram.engine.codec.representation import MAXIMUM_STEP, MINIMUM_STEP, nearest_step


def test_steps_beyond_the_grid_are_its_ends():
    assert [nearest_step(size) for size in (0.0, 1e-60, 1.0, 1e60)] == [MINIMUM_STEP, MINIMUM_STEP, 0, MAXIMUM_STEP]
