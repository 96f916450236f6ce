"""Models of others in phase 7: one that goes through it, and those that are told at once that they cannot."""

import pytest
import torch
from tests.phases.edge.conftest import TINY
from transformers import GPT2Config, GPT2LMHeadModel, Phi3Config, Phi3ForCausalLM

from agent_forge.contract import one
from agent_forge.data.corpora import Corpus
from agent_forge.errors import HandoffError
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.phases.edge.expert_course import train_experts
from agent_forge.phases.edge.expert_lesson import ExpertSettings
from agent_forge.phases.edge.first_look import refuse_unfit
from agent_forge.phases.edge.judgement import Judgement

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def tokenizer(edge_folders):
    return load_model(edge_folders / "agent")[1]


def gpt2(positions):
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=positions)).eval()


def test_a_llama_goes_through_the_phase(edge_folders, tokenizer, make_llama, take_to_the_edge, tmp_path):
    (tmp_path / "corpus").symlink_to(edge_folders / "corpus")
    save_model(make_llama(), tokenizer, tmp_path / "agent")
    plain = {"experts": TINY.experts.model_copy(update={"skills": ()}), "bench_repeats": 0}
    outputs, context = take_to_the_edge(tmp_path, tmp_path / "run", TINY.model_copy(update=plain))
    assert context.measured["edge/onnx_equal_fraction"] == 1.0
    assert context.measured["edge/experts"] == 0.0
    assert context.measured["edge/expert_identity_exact"] == 1.0
    assert {"model.onnx", "onnx.json"} <= set(one(outputs, "bundle").files)


def test_a_model_without_a_graph_is_told_before_anything_is_measured(
    edge_folders, tokenizer, take_to_the_edge, tmp_path
):
    (tmp_path / "corpus").symlink_to(edge_folders / "corpus")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    phi = Phi3ForCausalLM(Phi3Config(vocab_size=300, **shape, sliding_window=8, pad_token_id=0))
    save_model(phi, tokenizer, tmp_path / "agent")
    with pytest.raises(HandoffError, match="cannot be exported to ONNX: phi3 has a sliding window"):
        take_to_the_edge(tmp_path, tmp_path / "run")


def test_too_few_positions_are_one_sentence():
    with pytest.raises(HandoffError, match="positions for 64 tokens, and a measure of speed .* takes 130"):
        refuse_unfit(gpt2(64), TINY)
    refuse_unfit(gpt2(130), TINY)


def test_few_positions_suffice_for_the_questions(edge_folders, tokenizer):
    corpus = Corpus.open(edge_folders / "corpus")
    found = Judgement(TINY, tokenizer, corpus, None, "", 0).answers(gpt2(130), "test")
    assert found["bits_per_byte"] > 0


def test_a_model_without_linear_layers_gets_no_expert_and_the_reason(edge_folders, tokenizer):
    corpus, settings = Corpus.open(edge_folders / "corpus"), ExpertSettings(test_documents=4, selection_documents=4)
    found = train_experts(gpt2(130), tokenizer, corpus, skills=("drills/count",), settings=settings, seed=0)
    assert found.experts == []
    assert found.skipped == {"drills/count": "GPT2LMHeadModel has no linear layer in its body that could be adapted"}
    assert found.measured["edge/expert_parameters"] == 0
