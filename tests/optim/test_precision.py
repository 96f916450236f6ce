import pytest
import torch

from agent_forge.optim import precision


def test_auto_follows_the_processor(monkeypatch):
    for flags, expected in (({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags, raising=False)
        assert precision.training_precision("auto") == expected
        assert precision.training_precision("fp32") == torch.float32
        assert precision.training_precision("bf16") == torch.bfloat16


def test_refuses_another_choice():
    with pytest.raises(ValueError, match="fp16"):
        precision.training_precision("fp16")
