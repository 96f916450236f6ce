import math

import pytest
import torch

from agent_forge.phases.evomerge.della import drop_both_ends, drop_by_rank
from agent_forge.phases.evomerge.karcher import karcher
from agent_forge.phases.evomerge.methods import METHODS, TensorSettings
from agent_forge.phases.evomerge.model_stock import model_stock
from agent_forge.phases.evomerge.task_vectors import merge_task_vectors


def test_every_method_works_on_its_defaults_under_both_conventions() -> None:
    g = torch.Generator().manual_seed(0)
    trunk, a, b = (torch.randn(6, 8, generator=g) for _ in range(3))
    for method in METHODS.values():
        for convention in ("paper", "mergekit"):
            options = method.defaults(convention)
            count = min(2, method.parents[1] or 2)
            settings = TensorSettings(
                [1.0] * count, [0.5] * count, options, lambda i: torch.Generator().manual_seed(i), [0.1] * count
            )
            merged = method.merge(trunk if method.needs_trunk else None, iter([a, b][:count]), settings)
            assert merged.shape == (6, 8), method.name
            assert torch.isfinite(merged).all(), method.name


def test_task_arithmetic_by_hand() -> None:
    trunk, a, b = torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([0.0])
    assert merge_task_vectors(trunk, [a, b], weights=[1, 2], strength=0.5).item() == 1 + 0.5 * (2 - 2)
    assert merge_task_vectors(trunk, [a, b], weights=[1, 1], divide_by="weights").item() == 1.5
    with pytest.raises(ValueError, match="sum to 0"):
        merge_task_vectors(trunk, [a, b], weights=[1, -1], divide_by="weights")


def test_breadcrumbs_drops_both_ends() -> None:
    delta = torch.tensor([10.0, -1.0, 2.0, -3.0, 4.0, -5.0, 6.0, 7.0, 8.0, 9.0])
    assert drop_both_ends(delta.clone(), 0.5, gamma=0.2).tolist() == [0, 0, 0, 0, 4, -5, 6, 7, 8, 0]
    assert drop_both_ends(delta.clone(), 0.5, gamma=0.0).tolist() == [10, 0, 0, 0, 0, 0, 6, 7, 8, 9]
    assert drop_both_ends(delta.clone(), 1.0, gamma=0.2).tolist() == delta.tolist()


def test_della_keeps_large_entries_more_often_without_bias() -> None:
    delta = torch.tensor([[0.1, 0.2, 0.3, 5.0]])
    draws = torch.cat(
        [drop_by_rank(delta.clone(), 0.5, epsilon=0.3, generator=torch.Generator().manual_seed(i)) for i in range(3000)]
    )
    kept = (draws != 0).float().mean(0)
    assert kept.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.04)
    assert torch.allclose(draws.mean(0), delta[0], rtol=0.15)
    with pytest.raises(ValueError, match="epsilon"):
        drop_by_rank(delta, 0.5, epsilon=0.6, generator=torch.Generator())


def test_model_stock_walks_as_far_as_the_angle_allows() -> None:
    trunk = torch.zeros(2)
    same = model_stock(trunk, [torch.tensor([1.0, 1.0])] * 2)
    right_angle = model_stock(trunk, [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
    sixty = model_stock(trunk, [torch.tensor([1.0, 0.0]), torch.tensor([0.5, math.sqrt(0.75)])])
    assert same.tolist() == pytest.approx([1, 1])  # cos 1: all the way to the mean
    assert right_angle.tolist() == [0, 0]  # cos 0: noise, back to the trunk
    assert sixty[0] == pytest.approx(0.75 * 2 / 3)  # t = 2·½ / (1 + ½)
    with pytest.raises(ValueError, match="not 1"):
        model_stock(trunk, [trunk])


def test_the_karcher_mean_of_two_is_half_way_and_does_not_depend_on_the_order() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert karcher([a, b], weights=[1, 1]).flatten().tolist() == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-5)
    g = torch.Generator().manual_seed(0)
    three = [torch.randn(2, 5, generator=g) for _ in range(3)]
    one_way, other_way = (karcher(order, weights=[1, 1, 1], iterations=50) for order in (three, three[::-1]))
    assert torch.allclose(one_way, other_way, atol=1e-3)
    assert karcher([torch.zeros(2, 2)] * 2, weights=[1, 1]).abs().sum() == 0
