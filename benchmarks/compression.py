"""Size against quality, side by side in one run, and the distortion of every codec on Gaussian weights.

Three tables:

1. Gaussian weights: bits, signal to noise in dB, the Shannon bound at those bits (6.02 dB a bit), and the gap, beside
   round-to-nearest, Lloyd–Max and plain k-means.
2. VPTQ against GPTQ on the matrices of a trained model: Hessian-weighted error at no more total bits.
3. Whole files of one trained model: fp16, int8 + zstd, int4 + zstd, GPTQ 4-bit + zstd, a Q2_K-like rounding, ours;
   and of its ternary continuation: 2-bit + zstd, llama.cpp's TQ1_0 + Q8_0 layout, ours. Bits per byte on one test set.

The model is a small Llama trained here on the synthetic world for --steps steps; the figures say what formats do to
such a model, not how good it is.

    python benchmarks/compression.py [--steps 300] [--only gaussian|vptq|files] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agent_forge.phases.compression import codecs, gptq, hessian, plain, vptq

SCALAR_GAUSSIAN_DB = {2: 9.30, 3: 14.62, 4: 20.22}  # Max 1960, table I


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", choices=("gaussian", "vptq", "files"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "compression"}
    if options.only in (None, "gaussian"):
        result["gaussian"] = gaussian()
    if options.only != "gaussian":
        world = World(options.steps)
        if options.only in (None, "vptq"):
            result["vptq"] = against_gptq(world)
        if options.only in (None, "files"):
            result["files"] = files(world)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def gaussian() -> list[dict[str, Any]]:
    """Table 1, on 256 × 384 weights (k-means and codebooks are fitted on other weights than they are measured on)."""
    generator = torch.Generator().manual_seed(0)
    weights, training = torch.randn(256, 384, generator=generator), torch.randn(256, 384, generator=generator)
    rows = []

    def put(name: str, bits: float, decoded: Tensor) -> None:
        decibels = -20 * math.log10(float((decoded - weights).norm() / weights.norm()))
        rows.append({"codec": name, "bits": bits, "dB": decibels, "bound_dB": 6.0206 * bits})
        bound = 6.0206 * bits
        print(f"{name:40}{bits:8.3f} bits{decibels:8.2f} dB   bound {bound:6.2f}   gap {bound - decibels:5.2f}")

    for bits in (2, 3, 4):
        codes, scales = plain.round_to_nearest(weights, levels=2**bits - 1, group=64)
        values = plain.from_groups(codes.float() * scales.float()[..., None], tuple(weights.shape))
        put(f"round-to-nearest {bits} bits, groups of 64", bits + 0.25, values)
        rows.append({"codec": f"Lloyd–Max {bits} bits (Max 1960)", "bits": bits, "dB": SCALAR_GAUSSIAN_DB[bits]})
        print(f"{'Lloyd–Max (Max 1960)':34}{bits:8.3f} bits{SCALAR_GAUSSIAN_DB[bits]:8.2f} dB")
    for vector, count in ((2, 16), (4, 256), (2, 64), (3, 512), (2, 256)):
        table = vptq._kmeans(training.reshape(-1, vector), torch.ones(training.numel() // vector), count, 25, generator)
        index = vptq._nearest(weights.reshape(-1, vector), table)
        put(f"k-means, {count} centroids in {vector}-D", math.log2(count) / vector, table[index].view_as(weights))
    options = ["seedlm/3", "seedlm/4", *(f"hyper/{r}" for r in codecs.LADDER["hyper"])]
    for option in [*options, *(f"uniform/{r}" for r in ("1.5", "1.1", "0.8", "0.56", "0.4", "0.28"))]:
        encoded = codecs.encode(weights, option)
        put(option, encoded.bits_per_weight, codecs.decode(encoded))
    return rows


class World:
    """A small Llama trained on the synthetic world, its Hessians, and documents."""

    def __init__(self, steps: int) -> None:
        from agent_forge.data.corpora import Corpus, ingest
        from agent_forge.data.tokenizer import encode_documents, train_tokenizer

        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        ingest(["synthetic"], root / "corpus", seed=0, synthetic_bytes=800_000)
        self.corpus = Corpus.open(root / "corpus")
        self.tokenizer = train_tokenizer(self.corpus.training_texts(), 1024)
        domains = self.corpus.domains
        documents = [document for domain in domains for document in self.corpus.documents(domain, "train")]
        stream = [token for encoded in encode_documents(self.tokenizer, documents) for token in encoded.ids]
        self.rows = torch.tensor(stream[: len(stream) // 128 * 128]).view(-1, 128)
        self.model = train(fresh_llama(len(self.tokenizer)), self.rows, steps)

    def documents(self, split: str, count: int = 16) -> dict[str, Any]:
        """The first documents of each domain."""
        return {domain: self.corpus.documents(domain, split)[:count] for domain in self.corpus.domains}


def fresh_llama(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def train(model: Any, rows: Tensor, steps: int, rate: float = 2e-3) -> Any:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 - step / steps))
    model.train()
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (16,), generator=generator)]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def linear_hessians(world: World) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    names = [name for name, _ in world.model.named_parameters() if "proj" in name]
    found = hessian.collect(world.model, [row[None] for row in world.rows[:64]], names)
    return {name: world.model.get_parameter(name).detach() for name in names}, found


def against_gptq(world: World) -> list[dict[str, Any]]:
    """Table 2. Bits as stored: GPTQ after zstd where that is smaller, VPTQ with its codebooks."""
    weights, hessians = linear_hessians(world)
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, weight in weights.items():
        shapes.setdefault(tuple(weight.shape), []).append(name)
    rows = []
    for bits in (3, 2):
        wins = []
        for shape, names in shapes.items():
            count = sum(weights[n].numel() for n in names)
            rivals = [gptq.encode(weights[n], hessian=hessians[n], bits=bits) for n in names]
            gptq_bits = 8 * sum(len(r.payload) for r in rivals) / count
            encoded, shared, ours_bits = best_vptq(
                [weights[n] for n in names], [hessians[n] for n in names], bits=bits, limit=gptq_bits
            )
            for name, mine, rival in zip(names, encoded, rivals, strict=True):
                error = hessian.weighted_error(vptq.decode(mine, shared) - weights[name], hessians[name])
                other = hessian.weighted_error(plain.decode(rival) - weights[name], hessians[name])
                wins.append(error <= other and ours_bits <= gptq_bits + 0.005)
                row = {"tensor": name, "vptq_bits": ours_bits, "gptq_bits": gptq_bits, "ratio": error / other}
                rows.append({"nominal_bits": bits, **row})
            print(f"{shape!s:12} {bits} bits: VPTQ {ours_bits:.3f}, GPTQ {gptq_bits:.3f}; error ratio "
                  f"{[round(r['ratio'], 2) for r in rows[-len(names):]]}")  # fmt: skip
        print(f"VPTQ not worse at no more bits: {sum(wins)} of {len(wins)} matrices at {bits} bits")
    return rows


def best_vptq(
    weights: list[Tensor], hessians: list[Tensor], *, bits: int, limit: float
) -> tuple[list[Any], dict[str, bytes], float]:
    """Of vectors of 2, 3 and 4 weights, each with the largest codebook that stays below ``limit`` bits in all."""
    count = sum(weight.numel() for weight in weights)
    best: tuple[float, Any] = (float("inf"), None)
    for vector in (2, 3, 4):
        centroids, size = min(2 ** (bits * vector), 1024), float("inf")
        while centroids > 2:
            encoded, shared = vptq.encode(
                weights, hessians, iterations=8, name="book", vector=vector, centroids=centroids,
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            size = 8 * (sum(len(e.payload) for e in encoded) + sum(map(len, shared.values()))) / count
            if size <= limit:
                break
            centroids = int(centroids * min(0.94, 2 ** (vector * (limit - size))))
        error = sum(
            hessian.weighted_error(vptq.decode(e, shared) - w, h)
            for e, w, h in zip(encoded, weights, hessians, strict=True)
        )
        best = min(best, (error, (encoded, shared, size)), key=lambda entry: entry[0])
    return best[1]


def files(world: World) -> list[dict[str, Any]]:
    """Table 3."""
    from agent_forge.model.ternary import Layout, TernaryLinear, freeze
    from agent_forge.phases.compression.quality import Meter

    master = world.model
    meter = Meter(master, world.tokenizer, world.documents("test"), max_length=256)
    rows = [dict(row, model="full precision") for row in rungs_of(world, copy.deepcopy(master), meter, gptq_too=True)]
    ternary = copy.deepcopy(master)
    for name, module in list(ternary.named_modules()):
        if name.endswith("proj"):
            TernaryLinear.from_linear(module, Layout(128))
    train(ternary, world.rows, max(100, len(rows) and 200), rate=1e-3)
    freeze(ternary)
    rows += [dict(row, model="ternary") for row in rungs_of(world, ternary, meter, gptq_too=False)]
    base = rows[0]["bits_per_byte"]
    rows.sort(key=lambda row: -row["bytes"])
    for row in rows:
        bits = row["bits_per_byte"]
        print(f"{row['model']:15}{row['name']:40}{row['bytes']:10,} bytes{bits:8.4f} bits/byte {bits / base - 1:+8.2%}")
    return rows


def rungs_of(world: World, model: Any, meter: Any, *, gptq_too: bool) -> list[dict[str, Any]]:
    """The phase's own ladder, plus GPTQ and Q2_K-like for the full-precision model."""
    from agent_forge.phases.compression.config import CompressionConfig
    from agent_forge.phases.compression.forge_file import to_bytes
    from agent_forge.phases.compression.ladder import ladder
    from agent_forge.phases.compression.quality import Meter
    from agent_forge.phases.compression.shrink import shrink

    own = Meter(model, world.tokenizer, world.documents("test"), max_length=256)
    shrunk = shrink(
        model, world.tokenizer, calibration=world.documents("train", 12), selection=world.documents("selection"),
        config=CompressionConfig(max_length=256), generator=torch.Generator().manual_seed(0),
        progress=lambda share, note: None,
    )  # fmt: skip
    print("chosen:", sorted({(shrunk.cascade.roles.get(n), o) for n, o in shrunk.plan.items()}, key=str))
    size = len(to_bytes(shrunk.compressed, world.tokenizer))
    rows = ladder(shrunk, world.tokenizer, own, file_bytes=size, stop=lambda: None)
    if gptq_too:
        bench = shrunk.cascade.bench
        overhead = size - shrunk.predicted[0]
        _, hessians = linear_hessians(world)
        rivals = (("GPTQ 4-bit groups of 64 + zstd", "gptq"), ("Q2_K-like (2.625 bits), rest Q6-like", "q2k"))
        for name, form in rivals:
            values, total = {}, overhead
            for tensor_name, tensor in bench.tensors.items():
                if tensor.dim() < 2:
                    total += 2 * tensor.numel()
                elif form == "gptq":
                    known = hessians.get(tensor_name)
                    coded = codecs.encode(tensor, "plain/int4") if known is None else gptq.encode(
                        tensor, hessian=known, bits=4, group=64)  # fmt: skip
                    values[tensor_name], total = codecs.decode(coded), total + len(coded.payload)
                else:
                    linear = tensor_name in hessians
                    values[tensor_name] = asymmetric(tensor, 4 if linear else 64, 16)
                    total += round(tensor.numel() * (2.625 if linear else 6.5625) / 8)
            bench.load(values)
            rows.append({"name": name, "bytes": total, "bits_per_byte": own.bits_per_byte(), "retention": None})
    return rows


def asymmetric(tensor: Tensor, levels: int, group: int) -> Tensor:
    """Round-to-nearest between the minimum and the maximum of each group: the shape of llama.cpp's K-quants."""
    grouped = plain.to_groups(tensor.float(), group)
    low, high = grouped.amin(dim=2, keepdim=True), grouped.amax(dim=2, keepdim=True)
    step = ((high - low) / (levels - 1)).clamp_min(1e-12)
    return plain.from_groups(torch.round((grouped - low) / step) * step + low, tuple(tensor.shape))


if __name__ == "__main__":
    main()
