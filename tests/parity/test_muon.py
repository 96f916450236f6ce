"""MuonGrokfast with λ = 0 and no clipping is torch.optim.Muon plus torch.optim.AdamW."""

import pytest
import torch

from agent_forge.optim.muon_grokfast import MuonGrokfast

SHAPES = {"square": (48, 48), "wide": (32, 80), "tall": (96, 40), "tall_too": (80, 32), "odd": (7, 13)}


def reference_in_float32(monkeypatch):
    """torch's Newton–Schulz casts to bfloat16 with `Tensor.bfloat16`; a copy in float32 removes that rounding."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


def parameters(seed):
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    made["gain"] = torch.randn(17, generator=generator)
    made["embedding"] = torch.randn(50, 16, generator=generator)
    return {name: torch.nn.Parameter(value) for name, value in made.items()}


def run_pair(*, nesterov, weight_decay, dtype, steps=6, lr=1e-2):
    ours, theirs = parameters(0), parameters(0)
    optimizer = MuonGrokfast(
        ours.items(), set(SHAPES), lr=lr, weight_decay=weight_decay, momentum=0.95, nesterov=nesterov,
        clip_norm=0.0, orthogonalization_dtype=dtype,
    )  # fmt: skip
    muon = torch.optim.Muon(
        [theirs[n] for n in SHAPES], lr=lr, weight_decay=weight_decay, momentum=0.95, nesterov=nesterov,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    decayed = {"params": [theirs["embedding"]], "weight_decay": weight_decay}
    gains = {"params": [theirs["gain"]], "weight_decay": 0.0}
    adamw = torch.optim.AdamW([decayed, gains], lr=lr, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for name, parameter in ours.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            theirs[name].grad = parameter.grad.clone()
        optimizer.step()
        muon.step()
        adamw.step()
    return ours, theirs


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_equal_torch_in_float32(monkeypatch, nesterov, weight_decay):
    reference_in_float32(monkeypatch)
    ours, theirs = run_pair(nesterov=nesterov, weight_decay=weight_decay, dtype=torch.float32)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_step_in_bfloat16_differs_from_torch_by_rounding_only():
    ours, theirs = run_pair(nesterov=True, weight_decay=0.1, dtype=torch.bfloat16, steps=1, lr=1e-3)
    for name in ours:
        scale = 1e-3 * 0.2 * max(ours[name].shape) ** 0.5
        # The iteration carries about 2^-8 of relative rounding, however it is ordered.
        assert (ours[name] - theirs[name]).abs().max() <= 0.05 * scale, name
        drift = (ours[name] - theirs[name]).norm() / (ours[name].numel() ** 0.5)
        assert drift <= 1e-6, f"{name}: {drift}"


def test_the_parity_would_notice_another_scale(monkeypatch):
    reference_in_float32(monkeypatch)
    ours, theirs = run_pair(nesterov=True, weight_decay=0.0, dtype=torch.float32, steps=1)
    torch.manual_seed(0)
    moved = parameters(0)["wide"] - theirs["wide"]
    assert moved.norm() > 1e-2
    assert (ours["wide"] - theirs["wide"]).norm() < 1e-5 * moved.norm()
