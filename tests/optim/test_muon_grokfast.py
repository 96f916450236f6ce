import pytest
import torch
from torch import nn

from agent_forge.optim.muon_grokfast import MuonGrokfast, matrix_names


class Tiny(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 8, bias=True)
        self.back = nn.Linear(8, 6, bias=False)
        self.halt = nn.Linear(6, 1)
        self.lm_head = nn.Linear(6, 11, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.back(torch.tanh(self.body(x)))
        return self.lm_head(x * torch.sigmoid(self.halt(x)))


def tiny(seed=0, tied=False):
    torch.manual_seed(seed)
    return Tiny(tied)


def train(model, optimizer, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        tokens = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("tied", [True, False])
def test_body_matrices_and_nothing_else_go_to_muon(tied):
    assert matrix_names(tiny(tied=tied)) == {"body.weight", "back.weight"}


def test_roles_of_the_groups():
    model = tiny()
    optimizer = MuonGrokfast(model.named_parameters(), matrix_names(model), weight_decay=0.3)
    roles = {id(p): (g["role"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert roles[id(model.body.weight)] == ("muon", 0.3)
    assert roles[id(model.embed.weight)] == ("adamw", 0.3)
    assert roles[id(model.body.bias)] == ("adamw", 0.0)
    assert len(roles) == len(list(model.parameters()))


def test_grokfast_by_hand():
    # g = 1 then 3, α 0.5, λ 2: h = 1 then 2; ĝ = 3 then 7. AdamW's mean with β₁ 0 shows ĝ itself.
    weight = nn.Parameter(torch.zeros(1))
    optimizer = MuonGrokfast(
        [("w", weight)], (), lr=0.1, betas=(0.0, 0.9), clip_norm=0, grokfast_lambda=2.0, grokfast_alpha=0.5
    )
    seen = []
    for gradient in (1.0, 3.0):
        weight.grad = torch.tensor([gradient])
        optimizer.step(measure=True)
        seen.append((float(optimizer.state[weight]["mean"]), optimizer.measured["grokfast/ratio"]))
    assert seen == [(3.0, 3.0), (7.0, pytest.approx(7 / 3))]


def test_without_lambda_no_slow_gradient_is_kept():
    model = tiny()
    optimizer = MuonGrokfast(model.named_parameters(), matrix_names(model))
    train(model, optimizer, 2)
    assert all("slow" not in state for state in optimizer.state.values())


def test_raw_gradient_is_clipped_before_the_filter():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = MuonGrokfast(
        [("w", weight)], (), betas=(0.0, 0.9), clip_norm=1.0, grokfast_lambda=1.0, grokfast_alpha=0.9
    )
    weight.grad = torch.tensor([30.0, 40.0])
    optimizer.step(measure=True)
    assert optimizer.measured["grad/norm"] == pytest.approx(50.0)
    # Clipped to length 1, then doubled by the filter (h = g in the first step).
    torch.testing.assert_close(optimizer.state[weight]["mean"], torch.tensor([1.2, 1.6]))


def test_update_has_the_root_mean_square_of_adamw():
    weight = nn.Parameter(torch.zeros(24, 60))
    optimizer = MuonGrokfast([("w", weight)], {"w"}, lr=1.0, weight_decay=0.0, orthogonalization="svd")
    weight.grad = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert weight.detach().pow(2).mean().sqrt() == pytest.approx(0.2, rel=1e-3)


def test_stacked_projections_are_orthogonalised_block_by_block():
    stacked, parts = nn.Parameter(torch.zeros(24, 8)), [nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    gradient = torch.randn(24, 8, generator=torch.Generator().manual_seed(3))
    options = {"lr": 1.0, "weight_decay": 0.0, "clip_norm": 0.0, "orthogonalization_dtype": torch.float32}
    whole = MuonGrokfast([("qkv", stacked)], {"qkv"}, row_blocks={"qkv": (8, 8, 8)}, **options)
    split = MuonGrokfast([(str(i), p) for i, p in enumerate(parts)], {"0", "1", "2"}, **options)
    stacked.grad = gradient.clone()
    for part, piece in zip(parts, gradient.split(8), strict=True):
        part.grad = piece.clone()
    whole.step()
    split.step()
    torch.testing.assert_close(stacked, torch.cat(list(parts)), rtol=0, atol=1e-6)


def test_a_resumed_run_is_the_unbroken_run_bit_for_bit():
    def fresh():
        model = tiny(seed=5)
        return model, MuonGrokfast(model.named_parameters(), matrix_names(model), lr=0.02, grokfast_lambda=0.3)

    model, optimizer = fresh()
    expected = train(model, optimizer, 8)
    broken, first = fresh()
    begun = train(broken, first, 4)
    weights, state = {k: v.clone() for k, v in broken.state_dict().items()}, first.state_dict()
    resumed, second = fresh()
    resumed.load_state_dict(weights)
    second.load_state_dict(state)
    assert begun + train(resumed, second, 4, start=4) == expected
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_state_is_tensors_and_numbers_by_name():
    model = tiny()
    optimizer = MuonGrokfast(model.named_parameters(), matrix_names(model), grokfast_lambda=0.1)
    train(model, optimizer, 1)
    state = optimizer.state_dict()
    assert set(state["parameters"]) == {name for name, _ in model.named_parameters()}
    assert all(isinstance(v, torch.Tensor) for entry in state["parameters"].values() for v in entry.values())
    assert (state["num_steps"], state["grokfast_lambda"]) == (1, 0.1)


def test_it_learns():
    model = tiny()
    losses = train(model, MuonGrokfast(model.named_parameters(), matrix_names(model), lr=0.02), 40)
    assert losses[-1] < 0.5 * losses[0]


def test_parameters_without_gradient_are_left_alone():
    used, idle = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer = MuonGrokfast([("used", used), ("idle", idle)], {"used", "idle"}, lr=0.1)
    used.grad = torch.ones(3, 4)
    optimizer.step()
    assert torch.equal(idle, torch.ones(3, 4))
    assert not torch.equal(used, torch.ones(3, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    model = tiny()
    optimizer = MuonGrokfast(model.named_parameters(), matrix_names(model), grokfast_lambda=0.3)
    train(model, optimizer, 2)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.body.weight.grad[0, 0] = bad
    optimizer.step()
    assert not torch.isfinite(torch.tensor(optimizer.gradient_norm))
    assert optimizer.num_steps == 2
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_rates_scale_from_their_peaks():
    model = tiny()
    optimizer = MuonGrokfast(model.named_parameters(), matrix_names(model), lr=0.02, adamw_lr=0.004)
    optimizer.set_rate(0.5)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == [0.002, 0.01]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"grokfast_lambda": -0.1}, "grokfast_lambda"),
        ({"row_blocks": {"m": (2, 3)}}, "add up"),
    ],
)
def test_refuses_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        MuonGrokfast([("m", nn.Parameter(torch.zeros(4, 4)))], {"m"}, **options)


def test_refuses_vectors_for_muon_and_unknown_state():
    with pytest.raises(ValueError, match="2-D"):
        MuonGrokfast([("v", nn.Parameter(torch.zeros(4)))], {"v"})
    optimizer = MuonGrokfast([("v", nn.Parameter(torch.zeros(4)))], ())
    with pytest.raises(ValueError, match="unknown parameters: w"):
        optimizer.load_state_dict({"num_steps": 1, "grokfast_lambda": 0.0, "parameters": {"w": {}}})


def test_some_parameters_may_learn_more_slowly_and_the_others_do_not_notice():
    def after(factor):
        torch.manual_seed(0)
        weights = {name: torch.nn.Parameter(torch.randn(4, 4)) for name in "ab"} | {
            "c": torch.nn.Parameter(torch.ones(3))
        }
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        optimizer = MuonGrokfast(weights.items(), {"a", "b"}, lr=0.1, weight_decay=0.0)
        if factor:
            optimizer.scale_rate({"b", "c"}, factor)
        optimizer.set_rate(0.5)
        for weight in weights.values():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        return {name: weight.detach() - start[name] for name, weight in weights.items()}

    plain, slow = after(None), after(0.5)
    torch.testing.assert_close(slow["a"], plain["a"])
    for name in "bc":
        torch.testing.assert_close(slow[name], 0.5 * plain[name])
    with pytest.raises(ValueError, match="none of these"):
        MuonGrokfast([("a", torch.nn.Parameter(torch.ones(2, 2)))], {"a"}).scale_rate({"x"}, 0.5)
