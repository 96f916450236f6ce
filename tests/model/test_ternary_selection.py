import pytest
import torch
from torch import nn

from agent_forge.model.ternary_selection import select, special_rows


@pytest.mark.parametrize("tied", [True, False])
def test_llama_keeps_tables_and_norms(make_llama, tokenizer, tied):
    selection = select(make_llama(tied=tied), tokenizer)
    assert len(selection.linears) == 2 * 7
    assert set(selection.tables) == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert set(selection.kept.values()) == {"norm"}
    assert selection.special_rows == (0, 1, 2, 3, 4)


def test_cognate_keeps_gate_halting_and_convolution(make_cognate, tokenizer):
    model = make_cognate(memory="ema", recursion_steps=2, act=True)
    selection = select(model, tokenizer)
    assert {"gate", "halting", "convolution", "norm"} <= set(selection.kept.values())
    assert not any(part in name for name in selection.linears for part in (".gate.", "halt", "conv", "norm", "embed"))
    body = sum(linear.weight.numel() for linear in selection.linears.values())
    assert body > 0.5 * sum(p.numel() for p in model.parameters()) - sum(t.numel() for t in selection.tables.values())


def test_added_tokens_are_special(make_llama, tokenizer):
    import copy

    more = copy.deepcopy(tokenizer)
    more.add_tokens(["<think>"])
    model = make_llama()
    model.resize_token_embeddings(len(more), mean_resizing=False)
    selection = select(model, more)
    thought = more.convert_tokens_to_ids("<think>")
    assert thought in selection.special_rows
    rows = special_rows(selection)["model.embed_tokens.weight"]
    assert torch.equal(rows[selection.special_rows.index(thought)], model.model.embed_tokens.weight[thought])


def test_a_model_without_a_body_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no linear layer"):
        select(nn.Embedding(10, 4), tokenizer)
