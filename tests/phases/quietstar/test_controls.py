"""Coherence, controls, tokens, practice batches and figures."""

import numpy as np
import pytest
import torch
from tests.phases.quietstar.tiny import write_inputs

from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Task
from agent_forge.data.tokenizer import thought_ids
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.quietstar.coherence import Coherence, coherence
from agent_forge.phases.quietstar.controls import Controls, others, run_controls
from agent_forge.phases.quietstar.divergence import DivergenceWatch
from agent_forge.phases.quietstar.habit import filler_id, habit_batches, habit_loss
from agent_forge.phases.quietstar.measurement import figures
from agent_forge.phases.quietstar.thought_tokens import add_thought_tokens, marks_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("quietstar"))


@pytest.fixture
def thinker(folders):
    model, tokenizer = load_model(folders / "model")
    add_thought_tokens(model, tokenizer)
    return model, tokenizer


@pytest.mark.parametrize("kind", ["cognate", "llama"])
def test_new_rows_start_among_the_separators(folders, tmp_path, kind):
    folder = folders if kind == "cognate" else write_inputs(tmp_path, "llama")
    model, tokenizer = load_model(folder / "model")
    before = model.get_input_embeddings().weight.detach().clone()
    found = add_thought_tokens(model, tokenizer)
    table = model.get_input_embeddings().weight.detach()
    rows = table[[found.opening, found.closing]]
    assert torch.equal(table[: len(before)], before)
    assert found.rows_after == found.rows_before + 2 == len(table)
    torch.testing.assert_close(rows.mean(0), before[list(found.separators)].mean(0))
    assert not torch.equal(rows[0], rows[1])
    head = model.get_output_embeddings().weight.detach()
    if kind == "llama":  # not tied: the head's rows start from its own
        torch.testing.assert_close(head[[found.opening, found.closing]].mean(0), head[list(found.separators)].mean(0))
    again = add_thought_tokens(model, tokenizer)
    assert (again.separators, again.rows_after) == ((), found.rows_after)
    assert {found.opening, found.closing} <= set(marks_of(tokenizer).forbidden)


def test_practice_batches_hold_thoughts_filler_and_ordinary_text(folders, thinker):
    _, tokenizer = thinker
    corpus = Corpus.open(folders / "corpus")
    batches = habit_batches(
        corpus, tokenizer, strategies=("decompose",), levels=(1,), items=40, direct_fraction=0.3, filler_fraction=0.3,
        ordinary_fraction=0.5, sequence_length=128, batch_size=8, steps=12, seed=0,
    )  # fmt: skip
    opening, closing = thought_ids(tokenizer)
    seen = {"thought": 0, "filler": 0, "direct": 0}
    for step in range(12):
        batch = batches.batch(step)
        assert batch["ordinary"].any(1).tolist() == [False] * 4 + [True] * 4
        for ids, numbers in zip(batch["input_ids"][:4].tolist(), batch["document_ids"][:4].tolist(), strict=True):
            for number in set(numbers) - {-1}:
                words = [i for i, n in zip(ids, numbers, strict=True) if n == number]
                if opening not in words or closing not in words:
                    seen["direct"] += 1
                    continue
                inner = set(words[words.index(opening) + 1 : words.index(closing)])
                seen["filler" if inner == {filler_id(tokenizer)} else "thought"] += 1
    assert all(count > 5 for count in seen.values()), seen
    assert torch.equal(batches.batch(3)["input_ids"], batches.batch(3)["input_ids"])


def test_ordinary_text_is_held_where_it_was(folders, thinker):
    model, tokenizer = thinker
    batches = habit_batches(
        Corpus.open(folders / "corpus"), tokenizer, strategies=("weigh",), levels=(1,), items=20, direct_fraction=0.2,
        filler_fraction=0.2, ordinary_fraction=0.5, sequence_length=32, batch_size=4, steps=8, seed=0,
    )  # fmt: skip
    loss, parts = habit_loss(model, model, batches.batch(0), hold_weight=1.0)
    assert parts["quietstar/hold_divergence"] == pytest.approx(0.0, abs=1e-6)
    assert float(loss.detach()) == pytest.approx(parts["quietstar/cross_entropy"], abs=1e-6)


def test_coherence_lies_in_zero_to_one_and_empty_thoughts_have_none(thinker):
    model, tokenizer = thinker
    prompts = [[1, 3, 9, 2, 4], [1, 3, 12, 13, 2, 4]]
    found = coherence(model, tokenizer, prompts, [[10, 11], []], [[9], [9]])
    for values in (found.fluency, found.relevance, found.consistency, found.whole):
        assert bool(((values >= 0) & (values <= 1)).all())
    assert found.whole[1] == 0.0
    batched = coherence(model, tokenizer, prompts, [[10, 11], []], [[9], [9]], batch_tokens=8)
    np.testing.assert_allclose(found.whole, batched.whole, atol=1e-5)


def test_relevance_by_hand():
    one = Coherence(np.array([0.8]), np.array([0.5]), np.array([0.4]))
    assert one.whole[0] == pytest.approx(0.16 ** (1 / 3))


def test_others_thoughts_are_of_the_same_kind_and_never_ones_own():
    kinds = ["a", "b", "a", "c", "a", "b"]
    tasks = [Task(str(n), "x", kind) for n, kind in enumerate(kinds)]
    found = others(tasks)
    assert all(other != n for n, other in enumerate(found))
    assert [kinds[other] for n, other in enumerate(found) if kinds[n] != "c"] == ["a", "b", "a", "a", "b"]


def test_all_conditions_are_asked_and_an_unreachable_bound_skips_every_thought(thinker):
    model, tokenizer = thinker
    tasks = [Task(f"Start with {n}, add 1. What is left?", str(n + 1), "thoughts/decompose") for n in range(4)]
    options = {"thought_budget": 6, "answer_tokens": 3}
    found = run_controls(model, tokenizer, tasks, coherence_bound=1.0, **options)
    assert found.skipped.all()
    assert np.array_equal(found.on, found.off)
    assert (found.tokens <= 6).all()
    free = run_controls(model, tokenizer, tasks, coherence_bound=0.0, **options)
    assert not free.skipped.any()
    assert np.array_equal(free.on, free.own)
    with pytest.raises(ValueError, match="no tasks"):
        run_controls(model, tokenizer, [], coherence_bound=0.7, **options)


def controls(own, off, shuffled, filler, whole, questions=(), nats=None):
    whole = np.asarray(whole, float)
    return Controls(
        thoughts=[""] * len(own), tokens=np.full(len(own), 5), own=np.array(own, bool), off=np.array(off, bool),
        shuffled=np.array(shuffled, bool), filler=np.array(filler, bool), skipped=whole < 0.7,
        coherence=Coherence(whole, whole, whole), answers=[""] * len(own), questions=np.asarray(questions),
        nats=nats or {},
    )  # fmt: skip


def test_figures_by_hand():
    found = figures(controls([1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0.9, 0.9, 0.8, 0.1]))
    # the last thought is not injected, so its question is answered without: all four are right
    assert found["quietstar/accuracy_on"] == 1.0
    assert found["quietstar/accuracy_own"] == 0.75
    assert found["quietstar/gain_over_off"] == pytest.approx(1.0)
    assert found["quietstar/gain_over_shuffled"] == pytest.approx(4.0)  # over one right answer
    assert found["quietstar/coherence"] == pytest.approx(2.6 / 3)
    assert found["quietstar/valid_thoughts_fraction"] == 0.75
    assert (found["quietstar/skipped"], found["quietstar/hurt"], found["quietstar/helped"]) == (1, 0, 2)
    assert found["quietstar/coherence_correctness_correlation"] > 0.9


def test_the_watch_sees_each_way_to_diverge():
    def watch():
        return DivergenceWatch(max_divergence=0.2, min_gain=-0.1, min_entropy=0.5, window=2)

    for figure, why in (((0.5, 0.0, 1.0), "KL"), ((0.0, -0.5, 1.0), "cost"), ((0.0, 0.0, 0.1), "entropy")):
        found = watch()
        assert found.look(*figure) is None  # one step is no trend
        assert why in found.look(*figure)
    assert "not a number" in watch().look(float("nan"), 0.0, 1.0)
    healthy = watch()
    assert all(healthy.look(0.0, 0.1, 2.0) is None for _ in range(10))
    other = watch()
    other.load_state(healthy.state())
    assert other.look(0.9, 0.1, 2.0) == healthy.look(0.9, 0.1, 2.0)
    assert [healthy.rolled_back("x") for _ in range(3)] == [True, True, False]
