import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.optim.schedules import multiplier, staged


@pytest.mark.parametrize(
    ("kind", "progress", "expected"),
    [
        ("cosine", 0.05, 0.5), ("cosine", 0.1, 1.0), ("cosine", 0.55, 0.5), ("cosine", 1.0, 0.0),
        ("wsd", 0.5, 1.0), ("wsd", 0.8, 1.0), ("wsd", 0.9, 0.5), ("wsd", 1.0, 0.0),
        ("constant", 1.0, 1.0), ("constant", 0.0, 0.0), ("wsd", 7.0, 0.0),
    ],
)  # fmt: skip
def test_hand_examples(kind, progress, expected):
    assert multiplier(kind, progress, warmup_fraction=0.1, decay_fraction=0.2) == pytest.approx(expected)


@given(st.sampled_from(["cosine", "wsd"]), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_after_warm_up_it_never_rises(kind, a, b, warmup, floor):
    early, late = sorted((max(a, warmup), max(b, warmup)))
    options = {"warmup_fraction": warmup, "decay_fraction": 0.4, "floor": floor}
    assert multiplier(kind, late, **options) <= multiplier(kind, early, **options) + 1e-12
    assert multiplier(kind, 1.0, **options) == pytest.approx(floor)


def test_refuses():
    with pytest.raises(ValueError, match="linear"):
        multiplier("linear", 0.5)
    with pytest.raises(ValueError, match="exceed the run"):
        multiplier("wsd", 0.5, warmup_fraction=0.5, decay_fraction=0.6)
    with pytest.raises(ValueError, match="start at 0"):
        staged(0.5, [(0.1, 512)])


def test_length_curriculum():
    stages = [(0.0, 512), (0.5, 1024), (0.8, 2048)]
    assert [staged(p, stages) for p in (0.0, 0.49, 0.5, 0.79, 1.0)] == [512, 512, 1024, 1024, 2048]
