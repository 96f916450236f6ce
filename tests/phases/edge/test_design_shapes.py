"""Depth and window as genes: offered where the model has them and they change something; depth is cheaper."""

import torch
from tests.agent.dialogues import RECORDS

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.interpreter import answer
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.data.tokenizer import add_thoughts, train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.phases.edge.design_questions import Problem
from agent_forge.phases.edge.design_shapes import shapes
from agent_forge.phases.edge.design_trial import Bench, relative_depth

ASKED = [Problem(f"Add {a} and 7, and tell me what it comes to.", str(a + 7), "sum", 1) for a in (2, 3)]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "memory": "off",
         "gate_size": 16, "zero_init_output": False}  # fmt: skip


def bench_of(**options):
    tokenizer = train_tokenizer([problem.ask for problem in ASKED] * 4, 300)
    add_thoughts(tokenizer)
    torch.manual_seed(0)
    model = CognateForCausalLM(CognateConfig(vocab_size=len(tokenizer), **SIZES | options)).eval()
    made = Bench(model, tokenizer, world_toolbox(Knowledge(RECORDS)), max_tokens=4)
    made.measure(AgentDesign(think="off", tools="never"), ASKED)
    return made


def test_a_wide_window_is_not_searched_and_a_narrow_one_is():
    genes, said = shapes(bench_of(sliding_window=512, global_every=0))
    assert genes == {}
    assert said.startswith("half of the window of 512 tokens changes nothing in texts of at most ")
    genes, said = shapes(bench_of(sliding_window=8, global_every=0))
    assert genes == {"window": (None, 4)}
    assert said == "windows of 8 and 4 tokens are searched"


def test_depths_of_a_model_with_recursion_are_searched_and_cost_less():
    made = bench_of(recursion_steps=3, micro_steps=2, sliding_window=512)
    genes, said = shapes(made)
    assert genes == {"recursion_steps": (None, 1, 2)}
    assert said.startswith("recursion of 1 to 3 steps is searched; ")
    config = made.model.config
    # two layers, and three passes of the shared block for each step after the first
    assert [relative_depth(config, steps) for steps in (None, 3, 2, 1)] == [1, 1, 5 / 8, 2 / 8]
    design = AgentDesign(recursion_steps=1, tools="never")
    asked = [problem.ask for problem in ASKED]
    decoded = [each.num_tokens for each in answer(made.model, made.tokenizer, None, design, asked, max_tokens=4)]
    assert made.measure(design, ASKED).tokens == tuple(number * 2 / 8 for number in decoded)
    assert config.recursion_steps == 3


def test_a_model_with_neither_says_so(make_llama):
    made = bench_of(sliding_window=512)
    made.model = make_llama()
    assert shapes(made) == ({}, "this model has neither recursion nor a window")
