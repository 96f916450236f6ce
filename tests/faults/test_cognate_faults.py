"""Failures of phase 1, injected for real: each is seen, and answered or told."""

import copy

import pytest
import torch

from agent_forge.errors import OutOfMemory, PhaseFailed
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.parameters import check_budget
from agent_forge.optim.muon_grokfast import MuonGrokfast, matrix_names
from agent_forge.phases.cognate.attention_watch import attention_metrics, recording
from agent_forge.phases.cognate.merge_preview import slerp_states
from agent_forge.phases.cognate.objective import Weights
from agent_forge.phases.cognate.training import Recipe, TrainingRun, unshared_state
from agent_forge.phases.cognate.watch import Watch
from agent_forge.storage.checkpoints import load_newest, save_state


class Sequence:
    """Batches of a repeating text; a pure function of the step, as `Batches` is."""

    tokens_per_step = 4 * 16

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(1, 20, (4, 8), generator=generator).repeat(1, 2)
        return {"input_ids": ids, "labels": ids.clone(), "document_ids": torch.zeros_like(ids)}


def make_run(*, shape=None, optimizer=None, steps=200, **recipe):
    torch.manual_seed(0)
    values = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = CognateForCausalLM(CognateConfig(intermediate_size=16, **(values | (shape or {}))))
    seen = []
    options = {"lr": 5e-3, "orthogonalization_dtype": torch.float32} | (optimizer or {})
    made = Recipe(
        steps=steps, lengths=[(0, Sequence())], rate=lambda progress: 1.0, weights=recipe.pop("weights", Weights()),
        log_every=1, **recipe,
    )  # fmt: skip
    run = TrainingRun(model, MuonGrokfast(model.named_parameters(), matrix_names(model), **options), made, seen.append)
    return run, seen


def failures(seen):
    return [alarm.failure for alarm in seen]


def test_a2_a_memory_that_is_never_used():
    run, seen = make_run(shape={"memory": "ema", "memory_size": 8, "gate_size": 8})
    with torch.no_grad():
        for layer in run.model.model.layers:
            layer.gate.output.bias.fill_(9.0)  # saturated: attention takes everything
    run.step = 1
    found = run.model.features(Sequence().batch(0)["input_ids"], output_statistics=True)
    run.answer_validation({name: float(value.detach()) for name, value in found.statistics.items()})
    assert failures(seen) == ["A2"]
    assert seen[0].evidence["m_usage"] < 0.01


def test_b1_a_model_larger_than_promised_is_refused_with_knobs():
    with pytest.raises(Exception, match="25") as caught:
        check_budget(CognateConfig(vocab_size=32768, intermediate_size=2048, memory="ema"), 25_000_000)
    assert "vocab" in str(caught.value)


@pytest.mark.parametrize(("bias", "moved"), [(9.0, +0.1), (-9.0, -0.1)])
def test_c1_a_head_that_always_or_never_halts_moves_the_threshold(bias, moved):
    run, seen = make_run(shape={"recursion_steps": 3, "act": True})
    with torch.no_grad():
        run.model.halting.projection.bias.fill_(bias)
    run.step = 1
    found = run.model.features(Sequence().batch(0)["input_ids"], output_statistics=True)
    figures = {name: float(value.detach()) for name, value in found.statistics.items()}
    figures["act/largest_halt_prob"] = max(float(logits.detach().sigmoid().max()) for logits in found.halting_logits)
    run.answer_validation(figures)
    assert "C1" in failures(seen)
    assert run.model.config.halting_threshold == pytest.approx(0.5 + moved)


def test_c2_a_poisoned_weight_returns_to_the_last_good_state():
    run, seen = make_run(snapshot_every=10)
    for _ in range(15):
        run.advance()
    good = {name: tensor.clone() for name, tensor in run._good["model"].items()}
    poison(run)
    assert run.advance() == {}
    assert failures(seen) == ["C2"]
    assert run.step == 10
    assert run.skipped == 6  # the data that led there is not seen again
    for name, tensor in unshared_state(run.model).items():
        assert torch.equal(tensor, good[name])
    while run.step < 20:
        run.advance()
    assert failures(seen) == ["C2"]


def poison(run):
    with torch.no_grad():
        run.model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")


def test_c2_a_stop_between_two_good_states_changes_no_later_restore(tmp_path):
    unbroken, _ = make_run(snapshot_every=4, steps=14)
    stopped, _ = make_run(snapshot_every=4, steps=14)
    for _ in range(6):
        stopped.advance()
    save_state(tmp_path, stopped.state_dict(), 6, 3, reserve_bytes=0)
    resumed, seen = make_run(snapshot_every=4, steps=14)
    resumed.load_state_dict(load_newest(tmp_path)[0])
    for run in (unbroken, resumed):
        while not run.done:
            if run.step == 7 and not run.restores:
                poison(run)
            run.advance()
    assert failures(seen) == ["C2"]
    assert unbroken.skipped == resumed.skipped == 4  # back from step 7 to step 4
    for name, tensor in unshared_state(unbroken.model).items():
        assert torch.equal(tensor, unshared_state(resumed.model)[name]), name
    assert resumed.state_dict()["good"]  # 14 lies between two good states
    assert not make_run(snapshot_every=4)[0].state_dict()["good"]


def test_c2_a_loss_that_jumps_is_taken_back():
    run, seen = make_run(snapshot_every=1000, steps=400)
    while run.step < 60:
        run.advance()
    with torch.no_grad():
        run.model.lm_head.weight.mul_(30)
    run.advance()
    assert failures(seen) == ["C2"]
    assert run.step == 0
    assert seen[0].evidence["loss"] > seen[0].evidence["mean"] + 1


def test_c2_a_failure_that_comes_back_ends_the_phase():
    run, seen = make_run(max_restores=2)
    run.model.model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))
    run.advance()
    run.advance()
    with pytest.raises(PhaseFailed, match="3 times"):
        run.advance()
    assert failures(seen) == ["C2"] * 3


def test_d1_grokfast_that_amplifies_is_weakened_then_switched_off():
    run, seen = make_run(optimizer={"grokfast_lambda": 4.0, "grokfast_alpha": 0.5})
    found = []
    for _ in range(6):
        run.advance()
        found.append(run.optimizer.grokfast_lambda)
    assert failures(seen)[0] == "D1"
    assert seen[0].evidence["ratio"] > 2.0
    assert found[0] == 0.1
    run.watch.losses.extend([2.0] * 50 + [3.5] * 50)  # a loss that rose by 1.5 within the window
    run.advance()
    assert run.optimizer.grokfast_lambda == 0.0


def test_d2_one_step_of_newton_schulz_is_too_few_and_is_replaced():
    run, seen = make_run(optimizer={"orthogonalization_steps": 1})
    for _ in range(12):
        run.advance()
    assert "D2" in failures(seen)
    assert run.optimizer.orthogonalization_steps == 5


def test_d3_and_e1_qk_clip_fires_and_shared_keys_stay():
    run, seen = make_run(shape={"qk_norm": False, "num_key_value_heads": 1}, qk_clip_every=1, qk_clip_threshold=1.0)
    with torch.no_grad():
        for layer in run.model.model.layers:
            layer.attention.q_proj.weight.mul_(500)
    keys = [layer.attention.k_proj.weight.clone() for layer in run.model.model.layers]
    figures = run._look(run.batches().batch(0), 0, True)
    assert figures["optim/qk_clip_count"] == 4
    assert figures["optim/qk_clip_fraction"] == 1.0
    for layer, before in zip(run.model.model.layers, keys, strict=True):
        assert torch.equal(layer.attention.k_proj.weight, before)
    assert [(alarm.failure, alarm.action) for alarm in seen][:1] == [("D3", "looser_clip")]
    assert run.clip_threshold == 50.0


@pytest.mark.parametrize(("fraction", "action"), [(0.1, None), (0.11, "none"), (0.5, "none"), (0.51, "looser_clip")])
def test_d3_counts_the_share_of_heads_so_that_a_model_of_any_size_can_raise_it(fraction, action):
    found = Watch(max_steps=1, has_memory=False).clipped(fraction, loosened=False)
    assert (found and found.action) == action
    again = Watch(max_steps=1, has_memory=False).clipped(fraction, loosened=True)
    assert (again and again.action) == (None if action is None else "none")  # answered once, then only told


def test_d3_slows_queries_and_keys_alone_and_a_resumed_run_too():
    options = {"shape": {"qk_norm": False}, "qk_clip_every": 1, "qk_clip_threshold": 1.0}
    run, seen = make_run(**options)
    with torch.no_grad():
        for layer in run.model.model.layers:
            layer.attention.q_proj.weight.mul_(500)
    run.advance()
    run.advance()
    assert [alarm.action for alarm in seen if alarm.failure == "D3"].count("looser_clip") == 1
    assert (run.rate_factor, run.query_key_rate) == (1.0, 0.5)
    resumed, _ = make_run(**options)
    resumed.load_state_dict(run.state_dict())
    for each in (run, resumed):
        each.advance()
        rates = {
            name: group["lr"]
            for group in each.optimizer.param_groups
            for name, parameter in each.model.named_parameters()
            if any(parameter is other for other in group["params"])
        }
        slow = {name for name, rate in rates.items() if rate == pytest.approx(2.5e-3)}
        assert slow == {f"model.layers.{i}.attention.{side}.weight" for i in (0, 1) for side in ("q_proj", "k_proj")}
        assert all(rate == pytest.approx(5e-3) for name, rate in rates.items() if name not in slow)
        assert len(rates) == len(dict(each.model.named_parameters()))
    for one, other in zip(run.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_e1_keys_shrunk_in_one_layer():
    run, _ = make_run(shape={"qk_norm": False})
    with torch.no_grad():
        run.model.model.layers[1].attention.k_proj.weight.mul_(1e-3)
    with recording(run.model) as recorded:
        run.model.features(run.batches().batch(0)["input_ids"])
    assert [alarm.failure for alarm in run.watch.attention(attention_metrics(recorded))] == ["E1"]


def test_e2_attention_sinks_bring_attention_entropy_into_the_objective():
    shape = {"hidden_size": 64, "num_attention_heads": 8, "qk_norm": False}
    run, seen = make_run(shape=shape)
    with torch.no_grad():
        embedding = run.model.model.embed_tokens.weight
        embedding.zero_()
        embedding[:, 0] = 1.0
        embedding[0, 1] = 1.0  # only token 0 shows in channel 1 …
        for layer in run.model.model.layers:
            for weight, channel in ((layer.attention.q_proj.weight, 0), (layer.attention.k_proj.weight, 1)):
                weight.zero_()
                weight[3::8, channel] = 30.0  # … and every query looks for it, at the slowest rotation
    batch = run.batches().batch(0)
    batch["input_ids"][:, 0] = 0
    figures = run._look(batch, 0, True)
    assert figures["attn/sinks"] == 16
    assert failures(seen) == ["D3", "E2"]  # logits of such a size are clipped in every head
    parts = run.advance()
    assert 0 < parts["attn/entropy_fraction"] <= 1
    assert run.attention_entropy == 0.01


def test_g1_merging_two_strangers_is_worse_than_their_mean():
    states, losses = [], []
    for seed in (1, 2):
        run, _ = make_run(steps=80)
        torch.manual_seed(seed)
        fresh = CognateForCausalLM(run.model.config)
        run.model.load_state_dict(fresh.state_dict())
        while not run.done:
            losses_now = run.advance()
        states.append(copy.deepcopy(run.model.state_dict()))
        losses.append(losses_now["loss/next_token"])
    run.model.load_state_dict(slerp_states(*states))
    with torch.no_grad():
        merged = run._loss(run.batches().batch(0), 0)[1]["loss/next_token"]
    assert merged > sum(losses) / 2 + 0.05


def test_g2_one_optimizer_serves_every_phase_that_trains():
    values = {"lr": 1e-3, "grokfast_lambda": 0.1, "grokfast_alpha": 0.9, "weight_decay": 0.0, "momentum": 0.8}
    weight = torch.nn.Parameter(torch.ones(4, 4))
    for changes in ({}, {"grokfast_lambda": 0.0}, {"orthogonalization": "svd"}, {"orthogonalization_steps": 3}):
        optimizer = MuonGrokfast([("w", weight)], {"w"}, **(values | changes))
        weight.grad = torch.ones(4, 4)
        optimizer.step()
        again = MuonGrokfast([("w", weight)], {"w"}, **(values | changes))
        again.load_state_dict(optimizer.state_dict())
        assert again.num_steps == 1


def test_env1_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient(monkeypatch):
    calm, _ = make_run()
    short, seen = make_run()
    plain = CognateForCausalLM.features

    def greedy(model, input_ids, **options):
        if model is short.model and input_ids.shape[0] > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return plain(model, input_ids, **options)

    monkeypatch.setattr(CognateForCausalLM, "features", greedy)
    for run in (calm, short):
        run._with_memory_to_spare(run.batches().batch(0))
    assert failures(seen) == ["ENV1", "ENV1"]
    assert short.micro_batch == 1
    for one, other in zip(calm.model.parameters(), short.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_env1_when_one_window_does_not_fit_the_phase_says_so(monkeypatch):
    run, _ = make_run()

    def never(model, *args, **options):
        raise MemoryError

    monkeypatch.setattr(CognateForCausalLM, "features", never)
    with pytest.raises(OutOfMemory, match="one window"):
        run.advance()
