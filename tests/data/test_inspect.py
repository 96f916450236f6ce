"""What `data inspect` tells."""

import json
from itertools import product

import pytest

from agent_forge.data.inspect import inspect_sources
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.errors import DataError

WORDS = list(product(("red", "old", "shy", "big"), ("fox", "owl", "bear"), ("hill", "mill", "inn", "sea")))
TEXTS = [f"{n}. A {a} {b} lived by the {c} and told the same tale each night." for n, (a, b, c) in enumerate(WORDS)]


def test_rows_add_up(tmp_path):
    path = tmp_path / "tales.jsonl"
    rows = [*({"text": text} for text in TEXTS), {"text": TEXTS[0]}, {"text": "short"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer(TEXTS, 300)
    (row,) = inspect_sources([f"tales={path}"], tokenizer)
    assert (row["source"], row["domain"], row["documents"], row["kept"]) == ("tales.jsonl", "tales", 50, 48)
    assert row["dropped"] == {"exact duplicate": 1, "too short": 1}
    assert row["bytes"] == sum(len(text) + 1 for text in TEXTS)
    assert row["tokens"] == sum(len(tokenizer.encode(text)) + 1 for text in TEXTS)
    assert row["examples"]["too short"] == ["short"]


def test_duplicates_are_seen_across_sources_and_a_tokenizer_is_made(tmp_path):
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("<|endoftext|>".join(TEXTS))
    one, two = inspect_sources([str(tmp_path)])
    assert (one["kept"], two["kept"]) == (48, 0)
    assert two["dropped"] == {"exact duplicate": 48}
    assert one["bytes_per_token"] > 2
    assert two["bytes_per_token"] is None


def test_the_synthetic_world_can_be_looked_at():
    (row,) = inspect_sources(["synthetic"], synthetic_bytes=50_000)
    assert row["domain"] == "arithmetic, code, facts, stories, tools"
    assert row["tasks"] > 100


def test_missing(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        inspect_sources([str(tmp_path / "none.txt")])
