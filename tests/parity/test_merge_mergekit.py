"""The same YAML through mergekit (in an environment of its own) and through us gives the same tensors.

DARE draws its masks at random and mergekit takes no seed for them, so what is compared is the distribution:
the fraction of kept entries, that mergekit's rescaling restores the same L1 norm, and the first two moments
of the merged task vector.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.phases.evomerge.tiny import family

from agent_forge.phases.evomerge.merge_checkpoints import merge_yaml

PYTHON = os.environ.get("AGENT_FORGE_PEERS_PYTHON", "")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not PYTHON, reason="AGENT_FORGE_PEERS_PYTHON does not name the peers' python"),
]

THREE = [{"weight": 0.5, "density": 0.6}, {"weight": 0.3, "density": 0.4}, {"weight": 0.4, "density": 0.5}]
RECIPES = {
    "linear": {"merge_method": "linear"},
    "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.7}},
    "ties": {"merge_method": "ties"},
    "ties, plain sum": {"merge_method": "ties", "parameters": {"normalize": False}},
    "breadcrumbs": {"merge_method": "breadcrumbs", "parameters": {"gamma": 0.05}},
    "breadcrumbs_ties": {"merge_method": "breadcrumbs_ties", "parameters": {"gamma": 0.05}},
    "model_stock": {"merge_method": "model_stock"},
    "karcher": {"merge_method": "karcher"},
}


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parents")
    family(folder)
    return folder


def both(folder: Path, recipe: dict, out: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors that mergekit and we make of one recipe."""
    file = out / "recipe.yml"
    file.write_text(yaml.safe_dump(recipe))
    command = [str(Path(PYTHON).with_name("mergekit-yaml")), str(file), str(out / "theirs"), "--no-copy-tokenizer"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    merge_yaml(file, out / "ours")
    theirs, ours = load_file(out / "theirs" / "model.safetensors"), load_file(out / "ours" / "model.safetensors")
    assert set(theirs) == set(ours)
    return theirs, ours


def relative_difference(theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor]) -> float:
    """The worst tensor: largest |difference| over largest |value|."""
    return max(float((theirs[n] - ours[n]).abs().max() / theirs[n].abs().max()) for n in theirs)


def models(folder: Path, settings: list[dict]) -> list[dict]:
    return [{"model": str(folder / name), "parameters": s} for name, s in zip("abc", settings, strict=True)]


@pytest.mark.parametrize("name", RECIPES)
def test_same_tensors(name: str, parents: Path, tmp_path: Path) -> None:
    recipe = {**RECIPES[name], "models": models(parents, THREE), "base_model": str(parents / "trunk")}
    if name in ("linear", "karcher"):
        del recipe["base_model"]
    if name in ("linear", "task_arithmetic"):
        recipe["models"] = models(parents, [{"weight": s["weight"]} for s in THREE])
    if name in ("karcher", "model_stock"):
        recipe["models"] = models(parents, [{}, {}, {}])
    theirs, ours = both(parents, recipe, tmp_path)
    assert relative_difference(theirs, ours) <= 1e-6


def test_slerp_with_a_gradient_and_filters(parents: Path, tmp_path: Path) -> None:
    gradient = [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.4}]
    recipe = {
        "merge_method": "slerp",
        "base_model": str(parents / "a"),
        "slices": [{"sources": [{"model": str(parents / n), "layer_range": [0, 3]} for n in "ab"]}],
        "parameters": {"t": gradient},
    }
    theirs, ours = both(parents, recipe, tmp_path)
    assert relative_difference(theirs, ours) <= 1e-6


def test_passthrough_of_slices_makes_a_deeper_model(parents: Path, tmp_path: Path) -> None:
    pieces = [("a", [0, 2]), ("b", [1, 3]), ("c", [2, 3])]
    recipe = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(parents / n), "layer_range": span}]} for n, span in pieces],
    }
    theirs, ours = both(parents, recipe, tmp_path)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert len({name.split(".")[2] for name in ours if ".layers." in name}) == 5


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_has_the_same_distribution(method: str, parents: Path, tmp_path: Path) -> None:
    recipe = {
        "merge_method": method,
        "models": models(parents, [{"weight": 1.0, "density": 0.3}, {"weight": 0.0}, {"weight": 0.0}]),
        "base_model": str(parents / "trunk"),
    }
    theirs, ours = both(parents, recipe, tmp_path)
    trunk = load_file(parents / "trunk" / "model.safetensors")
    parent = load_file(parents / "a" / "model.safetensors")
    full, found = [], {"theirs": [], "ours": []}
    for name in trunk:
        if trunk[name].dim() < 2:
            continue
        delta = (parent[name] - trunk[name]).double().reshape(-1)
        full.append(delta)
        for who, merged in (("theirs", theirs), ("ours", ours)):
            thinned = (merged[name] - trunk[name]).double().reshape(-1)
            found[who].append(thinned)
            # The L1 norm of each tensor is restored by both.
            assert float(thinned.abs().sum() / delta.abs().sum()) == pytest.approx(1, abs=1e-3)
    whole = torch.cat(full)
    one, other = torch.cat(found["theirs"]), torch.cat(found["ours"])
    noise = 6 * (0.3 * 0.7 / whole.numel()) ** 0.5  # six standard deviations: mergekit's masks have no seed
    for thinned in (one, other):
        assert float((thinned != 0).double().mean()) == pytest.approx(0.3, abs=noise)
    spread = float(whole.std()) / (0.3 * whole.numel()) ** 0.5
    assert abs(float(one.mean() - other.mean())) < 6 * spread * 2**0.5
    assert float(one.pow(2).mean() / other.pow(2).mean()) == pytest.approx(
        1, abs=6 * (5.4 / 0.3 / whole.numel()) ** 0.5
    )
