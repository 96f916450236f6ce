"""The `.forge` file: round trip, refusal of every damage, equal bytes for equal inputs."""

from __future__ import annotations

import copy
import hashlib
import random
import struct
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from agent_forge.errors import ArtifactCorrupt, ArtifactMissing, HandoffError
from agent_forge.phases.compression import codecs, forge_file, vptq

OPTIONS = ("plain/native", "plain/fp16", "plain/int8", "plain/int4", "uniform/0.4", "hyper/6.5")


def compress(model: LlamaForCausalLM, **extra: object) -> forge_file.Compressed:
    tensors, tied = forge_file.stored_tensors(model)
    encoded, shared = {}, {}
    for index, (name, tensor) in enumerate(tensors.items()):
        option = OPTIONS[index % len(OPTIONS)] if tensor.dim() > 1 else "plain/fp16"
        encoded[name] = codecs.encode(tensor, option)
    twins = [name for name in tensors if name.endswith("up_proj.weight")]
    coded, shared = vptq.encode(
        [tensors[name] for name in twins], [torch.eye(64)] * len(twins), name="up", generator=torch.Generator()
    )
    encoded |= dict(zip(twins, coded, strict=True))
    return forge_file.Compressed(forge_file.config_of(model), encoded, tied, shared, **extra)


@pytest.fixture(scope="module")
def written(trained, tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("forge") / "agent.forge"
    forge_file.write(path, compress(trained, facts={"name": "füchse"}, extra={"experts": b"\x00" * 3000}), tokenizer)
    return path


def test_loaded_agent_gives_the_logits_of_the_reconstruction(trained, tokenizer, written):
    reconstruction = copy.deepcopy(trained)
    packed = compress(trained)
    with torch.no_grad():
        for name, encoded in packed.tensors.items():
            reconstruction.state_dict()[name].copy_(codecs.decode(encoded, packed.shared))
    model, loaded_tokenizer = forge_file.read_model(written)
    ids = torch.tensor([loaded_tokenizer("The fox number 3 saw")["input_ids"]])
    assert torch.equal(model(input_ids=ids).logits, reconstruction(input_ids=ids).logits)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.training


def test_tokenizer_comes_back_whole(tokenizer, written):
    _, loaded = forge_file.read_model(written)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    text = "The fox saw 12 birds.\n— über"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    chat = [{"role": "user", "content": "hi"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)
    assert (loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id) == (2, 1, 0)


def test_untied_model_round_trips(untied, tokenizer, tmp_path):
    model = untied
    tensors, tied = forge_file.stored_tensors(model)
    encoded = {name: codecs.encode(tensor, "plain/native") for name, tensor in tensors.items()}
    forge_file.write(
        tmp_path / "a.forge", forge_file.Compressed(forge_file.config_of(model), encoded, tied, {}), tokenizer
    )
    loaded, _ = forge_file.read_model(tmp_path / "a.forge")
    assert not tied
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_equal_inputs_give_equal_bytes(trained, tokenizer, tmp_path):
    first = forge_file.to_bytes(compress(trained), tokenizer)
    second = forge_file.to_bytes(compress(copy.deepcopy(trained)), copy.deepcopy(tokenizer))
    assert first == second
    assert str(tmp_path).encode() not in first


def test_every_byte_is_covered_by_a_digest(written, tmp_path):
    """400 random mutations and truncations: refused as corrupt, or the same agent; never another exception."""
    original, rng = written.read_bytes(), random.Random(0)
    damaged = tmp_path / "damaged.forge"
    for trial in range(400):
        blob = bytearray(original)
        kind = trial % 5
        if kind == 0:
            blob = blob[: rng.randrange(len(blob))]
        elif kind == 1:
            blob[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
        elif kind == 2:
            start = rng.randrange(len(blob))
            blob[start : start + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(64))
        elif kind == 3:
            blob += rng.randbytes(rng.randrange(1, 200))
        else:
            blob[rng.randrange(64)] = rng.randrange(256)  # the header
        damaged.write_bytes(blob)
        if bytes(blob) == original:
            continue
        with pytest.raises(ArtifactCorrupt, match="section"):
            forge_file.verify(damaged)


@pytest.mark.parametrize("section", ["tokenizer", "codebook/up", "tensors/small", "tensor/model.embed_tokens.weight"])
def test_damage_is_named_after_its_section(written, tmp_path, section):
    manifest, blob = forge_file.read_manifest(written), bytearray(written.read_bytes())
    offset = len(blob) - sum(length for _, length, _ in manifest["sections"])
    for name, length, _ in manifest["sections"]:
        if name == section:
            blob[offset + length // 2] ^= 0x40
        offset += length
    damaged = tmp_path / "damaged.forge"
    damaged.write_bytes(blob)
    with pytest.raises(ArtifactCorrupt, match=f"section {section}"):
        forge_file.read_model(damaged)


def test_valid_digests_around_nonsense_are_still_corrupt_and_nothing_else(trained, tokenizer, tmp_path):
    """A writer gone wrong: the digests hold, the contents do not."""
    packed = compress(trained)
    name = "model.embed_tokens.weight"
    rng, refused = random.Random(1), 0
    for _ in range(60):
        tensors = dict(packed.tensors)
        payload = bytearray(tensors[name].payload)
        if rng.random() < 0.5:
            payload = payload[: rng.randrange(len(payload))]
        else:
            payload[: rng.randrange(64)] = rng.randbytes(8)
        tensors[name] = type(tensors[name])(**{**vars(tensors[name]), "payload": bytes(payload)})
        path = tmp_path / "odd.forge"
        forge_file.write(path, forge_file.Compressed(packed.config, tensors, packed.tied, packed.shared), tokenizer)
        refusals = []
        try:
            forge_file.read_model(path)
        except ArtifactCorrupt as error:
            refusals.append(str(error))
        assert all(name in message for message in refusals)
        refused += len(refusals)
    assert refused > 20  # truncation always shows; other bytes may decode to other weights


def test_newer_version_is_told_apart_from_damage(written, tmp_path):
    blob = bytearray(written.read_bytes())
    blob[8:12] = struct.pack("<I", 99)
    blob[52:60] = hashlib.sha256(blob[:52]).digest()[:8]
    path = tmp_path / "newer.forge"
    path.write_bytes(blob)
    with pytest.raises(HandoffError, match="version 99"):
        forge_file.read_model(path)


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(ArtifactMissing):
        forge_file.read_model(tmp_path / "none.forge")
    for content in (b"", b"\x89FO", b"PK\x03\x04" + b"x" * 100):
        (tmp_path / "x.forge").write_bytes(content)
        with pytest.raises(ArtifactCorrupt, match="section header"):
            forge_file.read_model(tmp_path / "x.forge")


def test_a_file_that_lacks_a_tensor_is_refused(trained, tokenizer, tmp_path):
    packed = compress(trained)
    tensors = {name: value for name, value in packed.tensors.items() if "norm.weight" not in name}
    forge_file.write(
        tmp_path / "a.forge", forge_file.Compressed(packed.config, tensors, packed.tied, packed.shared), tokenizer
    )
    with pytest.raises(ArtifactCorrupt, match="missing"):
        forge_file.read_model(tmp_path / "a.forge")


def test_optional_sections_are_read_by_name(written):
    assert forge_file.read_section(written, "extra/experts") == b"\x00" * 3000
    with pytest.raises(KeyError):
        forge_file.read_section(written, "extra/none")
