"""In which precision to compute: what a device is quick at (a pure function of it, no timing), what a merge needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def has_fast_bfloat16(device: str = "cpu") -> bool:
    """True where bfloat16 matrix products are quicker than float32 ones.

    A processor counts when it has the AVX-512 bfloat16 or AMX instructions; a CUDA device when it computes
    bfloat16 natively. The answer depends on the hardware alone, so that equal machines train alike.
    """
    import torch

    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def training_precision(choice: str, device: str = "cpu") -> torch.dtype:
    """The type of autocast: ``choice`` is "auto", "bf16" or "fp32".

    Raises:
        ValueError: another choice.
    """
    import torch

    if choice not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision must be 'auto', 'bf16' or 'fp32', got {choice!r}")
    if choice == "auto":
        choice = "bf16" if has_fast_bfloat16(device) else "fp32"
    return torch.bfloat16 if choice == "bf16" else torch.float32


def working_precision(tensor: torch.Tensor) -> torch.Tensor:
    """float32 for everything narrower; float64 stays. Half precision loses the small differences that merging adds."""
    import torch

    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
