"""Rows on their own: the same alone as among others, greedy as elsewhere, drawn as often as is likely."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.model import row_generation
from agent_forge.model.generation import generate_tokens
from agent_forge.model.row_generation import generate_rows

PROMPTS = [[1, 7, 8], [1, 9], [1, 7, 7, 10, 11], [1, 9], [1, 12, 13, 14, 5, 6, 7, 8, 9, 10]]
SEEDS = [3, 1, 4, 1, 5]


@pytest.mark.parametrize("kind", ["cognate", "cognate with recursion", "llama"])
def test_greedy_rows_are_those_of_the_other_ways(kind, small, make_llama, tokenizer):
    recursive = {"recursion_steps": 2, "act": True}
    model = make_llama() if kind == "llama" else small(**(recursive if "recursion" in kind else {}))
    found = generate_rows(model, tokenizer, PROMPTS, 9)
    assert found == generate_rows(model, tokenizer, PROMPTS, 9, seeds=SEEDS)
    assert found == [list(generate_tokens(model, tokenizer, prompt, max_tokens=9)) for prompt in PROMPTS]


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(5)), rows=st.integers(1, 5), temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_a_draw_does_not_depend_on_its_company(order, rows, temperature):
    from tests.model.conftest import SMALL, disturbed

    from agent_forge.model import CognateConfig

    model = disturbed(CognateConfig(**SMALL)).double()

    class Marks:
        eos_token_id, pad_token_id = 2, 0

        def convert_tokens_to_ids(self, token):
            return None

    def draw(places, batch):
        prompts, seeds = [PROMPTS[n] for n in places], [SEEDS[n] for n in places]
        tokens = batch * (max(map(len, prompts)) + 8)
        return generate_rows(model, Marks(), prompts, 8, seeds=seeds, temperature=temperature, batch_tokens=tokens)

    together = draw(order, 5)
    assert together == draw(order, rows)
    assert together == [draw([n], 1)[0] for n in order]
    assert together[list(order).index(1)] == together[list(order).index(3)]  # equal prompt, equal seed


def test_tokens_come_as_often_as_they_are_likely(small, tokenizer):
    model = small()
    logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1].double() / 1.5
    wanted = logits.softmax(-1)
    drawn = generate_rows(
        model, tokenizer, [PROMPTS[0]] * 4000, 1, seeds=range(4000), temperature=1.5, stop_ids=(), batch_tokens=16000
    )
    counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=97)
    # chi-square over the tokens that are expected often enough; 99.9% quantile by Wilson and Hilferty
    often = wanted * 4000 >= 5
    chi = ((counts - wanted * 4000) ** 2 / (wanted * 4000))[often].sum()
    degrees = int(often.sum()) - 1
    assert chi < degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3


@pytest.mark.parametrize(("batch_tokens", "sizes"), [(1, [1] * 5), (38, [2, 2, 1]), (57, [3, 2]), (8192, [5])])
def test_a_batch_holds_no_more_tokens_than_it_may(small, tokenizer, monkeypatch, batch_tokens, sizes):
    """The longest prompt has 10 tokens and 9 are said: each row counts 19, padding included."""
    model = small()
    wanted = generate_rows(model, tokenizer, PROMPTS, 9)
    rows: list[int] = []
    whole = row_generation._Rows
    monkeypatch.setattr(
        row_generation, "_Rows", lambda model, prompts, *rest: rows.append(len(prompts)) or whole(model, prompts, *rest)
    )
    assert generate_rows(model, tokenizer, PROMPTS, 9, batch_tokens=batch_tokens) == wanted
    assert rows == sizes


def test_draws_are_repeatable_and_leave_torchs_generator_alone(small, tokenizer):
    model = small()
    first = generate_rows(model, tokenizer, PROMPTS, 12, temperature=1.2, seeds=SEEDS)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert generate_rows(model, tokenizer, PROMPTS, 12, temperature=1.2, seeds=SEEDS) == first
    assert torch.equal(torch.rand(3), expected)
    assert generate_rows(model, tokenizer, PROMPTS, 12, temperature=1.2, seeds=range(5)) != first


def test_hardly_any_temperature_is_greedy(small, tokenizer):
    model = small()
    greedy = generate_rows(model, tokenizer, PROMPTS, 8)
    assert generate_rows(model, tokenizer, PROMPTS, 8, temperature=1e-4, seeds=SEEDS) == greedy


def test_tokens_that_are_put_in_are_read(small, tokenizer):
    model = small()
    free = generate_rows(model, tokenizer, [PROMPTS[0]], 6, seeds=[0], stop_ids=())[0]
    found = generate_rows(
        model, tokenizer, [PROMPTS[0], PROMPTS[1]], 6, seeds=[0, 0], stop_ids=(),
        insert=lambda said: [20, 21] if len(said) == 2 and said[:2] == free[:2] else [],
    )  # fmt: skip
    assert found[0][:4] == [*free[:2], 20, 21]
    rest = generate_rows(model, tokenizer, [[*PROMPTS[0], *free[:2], 20, 21]], 2, seeds=[0], stop_ids=())[0]
    assert found[0][4:] == rest
    assert found[1] == generate_rows(model, tokenizer, [PROMPTS[1]], 6, seeds=[0], stop_ids=())[0]


def test_what_cannot_be_drawn_is_refused(small, tokenizer):
    drawn = {"temperature": 1.0}
    for prompts, options in (
        ([[]], {"seeds": [0]}), ([[1]], {"temperature": -1.0}), ([[1], [2]], {"seeds": [0]}), ([[1]], drawn),
        ([[1], [2]], drawn | {"seeds": [0]}), ([[1]], drawn | {"seeds": []}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="temperature"):
            generate_rows(small(), tokenizer, prompts, 3, **options)
    assert generate_rows(small(), tokenizer, [], 3, seeds=[]) == []
    assert generate_rows(small(), tokenizer, [], 0) == []
