from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.phases.evomerge.tiny import family, tiny_model

from agent_forge.errors import HandoffError
from agent_forge.phases.evomerge.candidate import ParentTensors, Resident, express
from agent_forge.phases.evomerge.checkpoint_folder import CheckpointFolder
from agent_forge.phases.evomerge.evolution import drawn_from
from agent_forge.phases.evomerge.genotype import (
    COMBINATIONS,
    average_genotype,
    parent_genotype,
    random_genotype,
    tidy,
    trunk_genotype,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    family(folder)
    return folder


def tensors_of(folder: Path, names: str = "abc") -> ParentTensors:
    return ParentTensors(CheckpointFolder(folder / "trunk"), [CheckpointFolder(folder / name) for name in names])


def stated(parents: ParentTensors, who: int) -> dict[str, torch.Tensor]:
    return {name: parents.tensor(who, name) for name in parents.names}


def test_parents_and_trunk_are_expressed_bit_for_bit(folders: Path) -> None:
    parents = tensors_of(folders)
    space = parents.space(2, 0)
    into = {name: torch.full_like(tensor, 9.0) for name, tensor in stated(parents, 0).items()}
    for who, genotype in [(0, parent_genotype(0, space)), (2, parent_genotype(2, space)), (-2, trunk_genotype(space))]:
        express(genotype, parents, space, into)
        assert all(torch.equal(into[name], tensor) for name, tensor in stated(parents, who).items())


def test_the_mean_is_the_mean(folders: Path) -> None:
    parents = tensors_of(folders)
    space = parents.space(2, 0)
    into = {name: torch.empty_like(tensor) for name, tensor in stated(parents, 0).items()}
    express(average_genotype(space), parents, space, into)
    for name in parents.names:
        mean = sum(parents.tensor(i, name) for i in range(3)) / 3
        assert torch.allclose(into[name], mean, atol=1e-4 * float(mean.abs().max()))


@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
def test_disk_and_memory_give_the_same_bits(folders: Path, combination: tuple[str, str, str]) -> None:
    parents = tensors_of(folders)
    space = parents.space(2, 0)
    genotype = random_genotype(space, drawn_from(1, "+".join(combination)), combination=combination)
    one, other = ({name: torch.empty_like(t) for name, t in stated(parents, 0).items()} for _ in range(2))
    express(genotype, parents, space, one)
    parents.to_disk()
    assert not parents.in_memory
    express(genotype, parents, space, other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.isfinite(tensor).all() for tensor in one.values())


def test_layers_come_from_where_the_genotype_says(folders: Path) -> None:
    parents = tensors_of(folders)
    space = parents.space(2, 0)
    into = {name: torch.empty_like(tensor) for name, tensor in stated(parents, 0).items()}
    franken = tidy(replace(average_genotype(space), sources=(1, -1, 2), outside=0), space)
    express(franken, parents, space, into)
    q = "model.layers.{}.self_attn.q_proj.weight"
    assert torch.equal(into[q.format(0)], parents.tensor(1, q.format(0)))
    assert torch.equal(into[q.format(2)], parents.tensor(2, q.format(2)))
    assert torch.equal(into["lm_head.weight"], parents.tensor(0, "lm_head.weight"))
    mean = dict(into)
    express(average_genotype(space), parents, space, mean)
    flow = tidy(replace(average_genotype(space), layout="dfs", path=(2, 1, 1), scales=(1, 1, 0.5)), space)
    moved = {name: torch.empty_like(tensor) for name, tensor in into.items()}
    express(flow, parents, space, moved)
    assert torch.equal(moved[q.format(0)], mean[q.format(2)])
    assert torch.equal(moved[q.format(2)], mean[q.format(1)])
    out = "model.layers.{}.self_attn.o_proj.weight"
    assert torch.equal(moved[out.format(2)], mean[out.format(1)] * 0.5)
    assert torch.equal(moved["model.embed_tokens.weight"], mean["model.embed_tokens.weight"])


def test_join_scales_do_what_scaling_the_stream_does(folders: Path) -> None:
    """The claim of dfs.py: a scale s on all later outputs = the stream scaled by 1/s at the join."""
    model = tiny_model()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(
            50
        )  # a stream of ordinary size, beside which the norm's epsilon is nothing
        layer = model.model.layers[2]
        hook = layer.register_forward_pre_hook(lambda module, args: (args[0] / 2, *args[1:]))
        scaled_stream = model(ids).logits
        hook.remove()
        layer.self_attn.o_proj.weight.mul_(2)
        layer.mlp.down_proj.weight.mul_(2)
        scaled_outputs = model(ids).logits
    assert torch.allclose(scaled_stream, scaled_outputs, atol=1e-3)


def test_more_layers_than_the_parents(folders: Path) -> None:
    parents = tensors_of(folders)
    space = parents.space(2, 2)
    resident = Resident(tiny_model(), parents, space)
    ids = torch.arange(20)[None]
    deep = tidy(replace(average_genotype(space), layout="dfs", path=(0, 1, 1, 2, 2), scales=(1,) * 5), space)
    with torch.no_grad():
        model = resident.become(deep)
        assert len(model.model.layers) == model.config.num_hidden_layers == 5
        five = model(ids).logits
        three = resident.become(average_genotype(space))(ids).logits
        assert len(resident.model.model.layers) == 3
        again = resident.become(deep)(ids).logits
    assert torch.equal(five, again)
    assert not torch.allclose(five, three)


def test_parents_that_do_not_fit_are_named(folders: Path, tmp_path: Path) -> None:
    family(tmp_path, "a")
    tiny_model(hidden_size=64).save_pretrained(tmp_path / "wide")
    with pytest.raises(HandoffError, match=r"hidden_size is 32 .* and 64 "):
        ParentTensors(CheckpointFolder(tmp_path / "trunk"), [CheckpointFolder(tmp_path / n) for n in ("a", "wide")])
    with pytest.raises(HandoffError, match="at least two parents, not 1"):
        tensors_of(tmp_path, "a")
    with pytest.raises(HandoffError, match="all parents are equal"):
        tensors_of(tmp_path, "aa")
