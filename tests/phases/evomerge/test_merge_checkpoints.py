from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.phases.evomerge.tiny import family, tiny_model
from transformers import AutoModelForCausalLM

from agent_forge.errors import ConfigError, HandoffError
from agent_forge.phases.evomerge.checkpoint_folder import INDEX, CheckpointFolder, dtype_code
from agent_forge.phases.evomerge.merge_checkpoints import merge_folders, merge_yaml
from agent_forge.phases.evomerge.methods import METHODS

NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    family(folder)
    return folder


@pytest.fixture
def copies(folders: Path, tmp_path: Path) -> Path:
    shutil.copytree(folders, tmp_path / "family")
    return tmp_path / "family"


def abc(folder: Path) -> list[Path]:
    return [folder / name for name in "abc"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = CheckpointFolder(folder)
    return {name: found.tensor(name).clone() for name in found.entries}


def change(folder: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path, pattern: str, error: type[Exception] = HandoffError, **recipe: object) -> None:
    """The merge raises, and leaves nothing behind."""
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(error, match=pattern):
        merge_folders(abc(folder), folder.parent / "out", **{"method": "linear", **recipe})  # type: ignore[arg-type]
    assert sorted(folder.parent.rglob("*")) == before


def test_the_mean_of_three_loads_in_transformers(folders: Path, tmp_path: Path) -> None:
    facts = merge_folders(abc(folders), tmp_path / "out", method="linear")
    parents = [load_file(folders / name / "model.safetensors") for name in "abc"]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in merged.items():
        assert torch.allclose(tensor, sum(parent[name] for parent in parents) / 3, atol=1e-7)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.state_dict()[NORM], merged[NORM])
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["layers"] == 3


def test_files_are_what_the_library_writes(folders: Path, tmp_path: Path) -> None:
    merge_folders([folders / "a"], tmp_path / "out", method="task_arithmetic", base=folders / "trunk")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "passthrough"])
def test_sharded_equals_unsharded_bit_for_bit(method: str, folders: Path, tmp_path: Path) -> None:
    family(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded" / "b" / INDEX).exists()
    common = {"method": method, "seed": 5}
    merge_folders(abc(folders), tmp_path / "one", base=folders / "trunk", **common)
    sharded = tmp_path / "sharded"
    merge_folders(abc(sharded), tmp_path / "two", base=sharded / "trunk", max_shard_bytes=20_000, **common)
    assert (tmp_path / "two" / INDEX).exists()
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "two").state_dict()
    assert torch.equal(again[NORM], one[NORM])


def test_global_and_tensor_scope_of_ties(folders: Path, tmp_path: Path) -> None:
    common = {"method": "ties", "base": folders / "trunk", "density": 0.1}
    merge_folders([folders / "a"], tmp_path / "global", **common)
    merge_folders([folders / "a"], tmp_path / "tensor", scope="tensor", **common)
    trunk = weights(folders / "trunk")
    kept = {
        scope: {name: float((t != trunk[name]).float().mean()) for name, t in weights(tmp_path / scope).items()}
        for scope in ("global", "tensor")
    }
    total = sum(t.numel() for t in trunk.values())
    for scope in kept:
        assert sum(kept[scope][n] * trunk[n].numel() for n in trunk) / total == pytest.approx(0.1, abs=0.01)
    assert all(value == pytest.approx(0.1, abs=0.04) for value in kept["tensor"].values())


def test_dtype_settings_per_parent_and_the_recipe_beside(folders: Path, tmp_path: Path) -> None:
    merge_folders(abc(folders), tmp_path / "out", method="linear", dtype="bfloat16", weight=[1, 0, 0])
    merged = weights(tmp_path / "out")
    assert merged[NORM].dtype == torch.bfloat16
    assert torch.equal(merged[NORM], weights(folders / "a")[NORM].bfloat16())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    recipe = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert recipe["merge_method"] == "linear"
    assert str(folders) not in json.dumps(recipe)


def test_a_yaml_with_slices_makes_a_deeper_model(folders: Path, tmp_path: Path) -> None:
    pieces = [("a", [0, 2]), ("b", [1, 3])]
    recipe = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(folders / n), "layer_range": span}]} for n, span in pieces],
    }
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe))
    assert merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")["layers"] == 4
    merged, b = weights(tmp_path / "out"), weights(folders / "b")
    assert torch.equal(merged["model.layers.3.mlp.up_proj.weight"], b["model.layers.2.mlp.up_proj.weight"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 4


def test_importing_and_merging_never_imports_transformers(folders: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from agent_forge.phases.evomerge.merge_checkpoints import merge_folders\n"
        f"merge_folders([Path({str(folders / 'a')!r}), Path({str(folders / 'b')!r})], Path({str(tmp_path / 'o')!r}))\n"
        "assert 'transformers' not in sys.modules and 'pydantic' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tokenizer_files_come_along(folders: Path, tmp_path: Path, world: Path) -> None:
    merge_folders([world / "specialist0", world / "specialist1"], tmp_path / "out", method="slerp")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (world / "trunk" / "tokenizer.json").read_bytes()


def test_not_a_number_in_a_parent(copies: Path) -> None:
    bad = weights(copies / "b")[NORM]
    bad[3] = float("nan")
    change(copies / "b", NORM, bad)
    refused(copies, rf"b/model.safetensors: tensor {NORM} holds nan at position 3 \(1 of 32")


def test_infinity_in_a_late_tensor_leaves_nothing_behind(copies: Path) -> None:
    name = max(weights(copies / "c"))
    bad = weights(copies / "c")[name]
    bad.view(-1)[0] = float("inf")
    change(copies / "c", name, bad)
    refused(copies, "holds inf at position 0")


def test_a_missing_tensor(copies: Path) -> None:
    change(copies / "c", NORM, None)
    refused(copies, rf"tensor {NORM} is in .*a/model.safetensors and missing in .*c")


def test_another_shape(copies: Path) -> None:
    change(copies / "b", NORM, torch.ones(33))
    refused(copies, rf"tensor {NORM} is \[32\] in .*a/model.safetensors and \[33\] in .*b/model.safetensors")


def test_another_architecture(copies: Path) -> None:
    tiny_model(num_hidden_layers=2).save_pretrained(copies / "b")
    refused(copies, r"num_hidden_layers is 3 in .*a/config.json and 2 in .*b/config.json")


def test_all_parents_equal(copies: Path) -> None:
    for name in "bc":
        shutil.copy(copies / "a" / "model.safetensors", copies / name / "model.safetensors")
    refused(copies, "all parents are equal: .*a/model.safetensors")


def test_other_tokenizers(copies: Path, world: Path) -> None:
    for name in "abc":
        shutil.copy(world / "trunk" / "tokenizer.json", copies / name)
    text = json.loads((copies / "c" / "tokenizer.json").read_text())
    first, second = sorted(text["model"]["vocab"], key=text["model"]["vocab"].get)[10:12]
    vocabulary = text["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (copies / "c" / "tokenizer.json").write_text(json.dumps(text))
    refused(copies, r"tokenizers differ: token .* is 10 in .*a/tokenizer.json and 11 in .*c/tokenizer.json")


def test_a_truncated_file_a_missing_shard_and_no_folder(copies: Path, tmp_path: Path) -> None:
    whole = (copies / "b" / "model.safetensors").read_bytes()
    (copies / "b" / "model.safetensors").write_bytes(whole[:-100])
    refused(copies, "truncated")
    (copies / "b" / "model.safetensors").write_bytes(b"not safetensors at all")
    refused(copies, "not a whole safetensors file")
    shutil.rmtree(copies / "b")
    refused(copies, "no such checkpoint folder")


@pytest.mark.parametrize(
    ("recipe", "pattern"),
    [
        ({"method": "liner"}, "unknown merge method 'liner'; did you mean 'linear'"),
        ({"method": "ties"}, "common ancestor"),
        ({"density": 0.5}, "unknown setting of linear 'density'"),
        ({"weight": [1, 2]}, "weight has 2 values for 3 parents"),
    ],
)
def test_recipes_that_cannot_be(folders: Path, tmp_path: Path, recipe: dict, pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        merge_folders(abc(folders), tmp_path / "out", **recipe)
    assert not list(tmp_path.iterdir())


def test_an_output_folder_with_something_in_it_is_left_alone(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        merge_folders(abc(folders), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("merge_method: linear\nmodle: []", "did you mean 'models'"),
        ("just words", "merge_method was expected"),
        ("merge_method: linear\nmodels: []", "linear takes 2 or more parents, 0"),
        ("merge_method: [", "not YAML"),
    ],
)
def test_yaml_that_cannot_be(tmp_path: Path, text: str, pattern: str) -> None:
    (tmp_path / "recipe.yml").write_text(text)
    with pytest.raises(ConfigError, match=pattern):
        merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")


def test_names_of_dtypes() -> None:
    assert dtype_code("bf16") == dtype_code(torch.bfloat16) == "BF16"
    with pytest.raises(ValueError, match="int3"):
        dtype_code("int3")
