import pytest
import torch

from agent_forge.phases.evomerge.dare import dare, drop, random_mask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_kept_entries_are_divided_by_their_probability() -> None:
    dropped = drop(torch.full((10_000,), 3.0), 0.25, generator=seeded())
    assert set(dropped.tolist()) == {0.0, 12.0}
    assert float((dropped != 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_the_expected_delta_is_unchanged() -> None:
    delta = torch.tensor([1.0, -2.0, 0.5])
    draws = torch.stack([drop(delta.clone(), 0.3, generator=seeded(i)) for i in range(4000)])
    assert torch.allclose(draws.mean(0), delta, atol=0.15)


def test_rescaling_by_norm_restores_it_and_is_another_estimator() -> None:
    delta = torch.randn(1000, generator=seeded())
    by_norm = drop(delta.clone(), 0.1, generator=seeded(1), rescale="l1")
    by_chance = drop(delta.clone(), 0.1, generator=seeded(1), rescale="keep")
    raw = drop(delta.clone(), 0.1, generator=seeded(1), rescale="none")
    assert float(by_norm.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-4)
    assert not torch.allclose(by_norm, by_chance)
    assert torch.equal(raw != 0, by_chance != 0)
    assert torch.equal(raw[raw != 0], delta[raw != 0])


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 10_001])
def test_masks_of_any_length(count: int) -> None:
    mask = random_mask(count, 1 << 15, generator=seeded())
    assert mask.shape == (count,)
    assert mask.dtype == torch.bool


def test_the_probability_is_exact_to_sixteen_bits() -> None:
    one_in_65536 = random_mask(2_000_000, 1, generator=seeded()).sum()
    all_but_one = (~random_mask(2_000_000, (1 << 16) - 1, generator=seeded())).sum()
    assert 8 < int(one_in_65536) < 60  # 30.5 expected
    assert 8 < int(all_but_one) < 60


def test_ends_seeds_and_errors() -> None:
    delta = torch.randn(100, generator=seeded())
    assert torch.equal(drop(delta.clone(), 1.0, generator=seeded()), delta)
    assert not drop(delta.clone(), 0.0, generator=seeded()).any()
    again = [drop(delta.clone(), 0.5, generator=seeded(7)) for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], drop(delta.clone(), 0.5, generator=seeded(8)))
    with pytest.raises(ValueError, match=r"1\.5"):
        drop(delta, 1.5, generator=seeded())


def test_dare_linear_is_the_sum_and_dare_ties_elects_after_dropping() -> None:
    trunk = torch.zeros(4)
    a, b = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([-3.0, 1.0, -3.0, 1.0])
    common = {"weights": [1, 1], "densities": [1.0, 1.0], "generator": seeded}
    assert dare(trunk, [a, b], **common).tolist() == [-2, 2, -2, 2]
    assert dare(trunk, [a, b], elect=True, divide_by="count", **common).tolist() == [-3, 1, -3, 1]
    # The second parent is dropped entirely: it has no vote.
    only_a = dare(trunk, [a, b], weights=[1, 1], densities=[1.0, 0.0], generator=seeded, elect=True, divide_by="count")
    assert only_a.tolist() == [1, 1, 1, 1]
