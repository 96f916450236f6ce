from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from agent_forge.errors import DiskFull
from agent_forge.storage import durable
from agent_forge.storage.checkpoints import damaged_states, load_newest, prune_states, save_state, states

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def save(folder: Path, state: dict[str, Any], step: int, keep: int = 3) -> Path:
    return save_state(folder, state, step, keep, reserve_bytes=0)


def same(one: Any, two: Any) -> bool:
    if isinstance(one, float):
        return isinstance(two, float) and (one == two or (math.isnan(one) and math.isnan(two)))
    if isinstance(one, dict):
        return isinstance(two, dict) and list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


@settings(max_examples=40, deadline=None)
@given(state=st.dictionaries(st.text(max_size=3), NESTED, max_size=4))
def test_any_nested_state_comes_back_equal(state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("states")
    save(folder, state, 1)
    loaded = load_newest(folder)
    assert loaded is not None
    assert same(loaded[0], state)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool],
)
def test_tensors_come_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randint(0, 2, (3, 5)).to(dtype) if dtype == torch.bool else (torch.randn(3, 5) * 50).to(dtype)
    state = {"whole": values, "turned": values.T, "scalar": values[0, 0], "empty": values[:0]}
    save(tmp_path, state, 7)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded[1] == 7
    for name, tensor in state.items():
        assert loaded[0][name].dtype == dtype
        assert torch.equal(loaded[0][name], tensor)


def test_what_training_needs_comes_back(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(3)
    dice = np.random.default_rng(5)
    state = {"optimizer": optimizer.state_dict(), "torch": generator.get_state(), "numpy": dice.bit_generator.state}
    save(tmp_path, state, 1)
    expected = torch.randn(3, generator=generator), dice.random(3)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    other = torch.optim.AdamW(model.parameters())
    other.load_state_dict(loaded[0]["optimizer"])
    again = torch.Generator()
    again.set_state(loaded[0]["torch"])
    dice_again = np.random.default_rng()
    dice_again.bit_generator.state = loaded[0]["numpy"]
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert torch.equal(torch.randn(3, generator=again), expected[0])
    assert np.array_equal(dice_again.random(3), expected[1])


def test_the_file_is_plain_safetensors_and_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    state = {"b": torch.arange(3.0), "a": {"c": torch.ones(2, 2, dtype=torch.bfloat16)}, "n": np.arange(4)}
    one, two = save(tmp_path / "1", state, 1), save(tmp_path / "2", state, 1)
    tensors = load_file(one.with_suffix(".safetensors"))
    assert torch.equal(tensors["0"], state["b"])
    assert one.read_bytes() == two.read_bytes()
    assert one.with_suffix(".safetensors").read_bytes() == two.with_suffix(".safetensors").read_bytes()


@pytest.mark.parametrize("damage", ["flip tensors", "truncate tensors", "remove tensors", "flip json", "empty json"])
def test_a_damaged_newest_state_falls_back_to_the_one_before(damage: str, tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, {"w": torch.full((100,), float(step)), "step": step}, step)
    json_file = states(tmp_path)[-1]
    victim = json_file if "json" in damage else json_file.with_suffix(".safetensors")
    data = bytearray(victim.read_bytes())
    if "flip" in damage:
        data[len(data) // 2] ^= 1
    elif "truncate" in damage:
        del data[-1:]
    elif "empty" in damage:
        data.clear()
    victim.unlink()
    if "remove" not in damage:
        victim.write_bytes(data)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert (loaded[1], loaded[0]["step"]) == (1, 1)
    assert damaged_states(tmp_path) == [json_file]


def test_every_mutation_of_the_newest_state_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, {"w": torch.full((20,), float(step)), "rate": 0.5}, step)
    dice, newest = random.Random(0), states(tmp_path)[-1]
    for _ in range(300):
        victim = dice.choice([newest, newest.with_suffix(".safetensors")])
        intact = victim.read_bytes()
        data = bytearray(intact)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        victim.write_bytes(data)
        loaded = load_newest(tmp_path)
        # A flip in the JSON may leave its meaning as it was (a hex digit cannot, white space can).
        assert loaded is not None
        assert loaded[0]["rate"] == 0.5
        assert torch.equal(loaded[0]["w"], torch.full((20,), float(loaded[1])))
        victim.write_bytes(intact)


def test_only_the_newest_are_kept_and_never_only_damaged_ones(tmp_path: Path) -> None:
    for step in range(5):
        save(tmp_path, {"step": step}, step)
    assert [int(path.stem.split("-")[1]) for path in states(tmp_path)] == [2, 3, 4]
    for path in states(tmp_path)[1:]:
        path.with_suffix(".safetensors").write_bytes(b"")
    prune_states(tmp_path, 1)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded[1] == 2


def test_nothing_there_gives_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "absent") is None


def test_a_short_disk_costs_older_states_but_not_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(3):
        save(tmp_path, {"w": torch.zeros(1000)}, step)
    monkeypatch.setattr(durable, "free_bytes", lambda folder: 0)
    with pytest.raises(DiskFull):
        save(tmp_path, {"w": torch.zeros(1000)}, 3)
    assert [path.stem[-1] for path in states(tmp_path)] == ["2"]
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded[1] == 2


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", torch.zeros(2, dtype=torch.complex64), {(1, 2): 3}])
def test_what_would_need_pickle_is_refused_with_its_place(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be saved|keys must be"):
        save(tmp_path, {"inner": [value]}, 1)
    assert load_newest(tmp_path) is None
