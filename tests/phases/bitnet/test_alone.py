import pytest
import torch

from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.model.ternary import is_exactly_ternary, ternary_linears
from agent_forge.model.ternary_checkpoint import load_packed
from agent_forge.phases.bitnet.alone import quantize_folder

SHORT = {"sequence_length": 24, "batch_size": 8, "calibration_samples": 16, "precision": "fp32"}


@pytest.fixture
def folder(make_llama, tokenizer, tmp_path):
    model = make_llama(hidden=64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                # An untrained model says nothing that could be lost; a louder one does.
                parameter.mul_(5)
    save_model(model, tokenizer, tmp_path / "full", {})
    return tmp_path


@torch.no_grad()
def _divergence(folder, reference, tokenizer, texts):
    ids = torch.tensor([tokenizer(text)["input_ids"][:16] for text in texts[10:20]])
    ours, theirs = (model(ids, use_cache=False).logits.log_softmax(-1) for model in (load_model(folder)[0], reference))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


def test_data_free_and_trained(folder, tokenizer, texts):
    (folder / "full" / "tools.json").write_text('{"format": 1, "tools": []}')
    bare = quantize_folder(folder / "full", folder / "bare", **SHORT)
    assert (folder / "bare" / "tools.json").read_text() == (folder / "full" / "tools.json").read_text()
    steps: list[int] = []
    trained = quantize_folder(
        folder / "full", folder / "trained", texts=texts, recovery_steps=30, learning_rate=5e-3,
        cross_entropy_weight=0.0,
        observe=lambda step, parts: steps.append(step), **SHORT,
    )  # fmt: skip
    assert bare["trained_steps"] == 0
    assert trained["trained_steps"] == 30 == len(steps)
    assert bare["ternary_layers"] == trained["ternary_layers"] == 14
    assert bare["compression_ratio"] == bare["plain_bytes"] / bare["packed_bytes"] > 4
    for name in ("bare", "trained"):
        assert is_exactly_ternary(folder / name)
        assert len(ternary_linears(load_packed(folder / name)[0])) == 14
    reference, _ = load_model(folder / "full")
    lost = [_divergence(folder / name, reference, tokenizer, texts) for name in ("bare", "trained")]
    assert lost[1] < 0.7 * lost[0]


def test_text_from_a_file(folder, texts):
    # `ingest` wants documents: one to a paragraph.
    (folder / "words.txt").write_text("\n\n".join(texts * 2))
    facts = quantize_folder(
        folder / "full", folder / "out", sources=[str(folder / "words.txt")], recovery_steps=2, **SHORT
    )
    assert facts["trained_steps"] == 2


def test_refuses_with_a_sentence(folder):
    with pytest.raises(ConfigError, match=r"group_size.*got -5"):
        quantize_folder(folder / "full", folder / "out", group_size=-5)
    with pytest.raises(ConfigError, match="no_such_thing"):
        quantize_folder(folder / "full", folder / "out", no_such_thing=1)
    with pytest.raises(ConfigError, match="not empty"):
        quantize_folder(folder / "full", folder / "full")
