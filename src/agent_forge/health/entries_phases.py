"""Failures of the phases. Names of curves are those that the phases log."""

from __future__ import annotations

from agent_forge.health.detectors import Signal
from agent_forge.health.failure import Failure

_NOT_BUILT = "its phase is not built yet"

COGNATE: tuple[Failure, ...] = (
    Failure(
        "A1", "the objective does not serve the later phases",
        cause="next-token loss improves while merging or reasoning does not", phases=("cognate",),
        measured="bits per byte of the merge preview against the mean of its parents",
        threshold="worse than its parents for two pairs of branches",
        mitigation="warning; the figure merge_preview goes to the gate", fallback="the gate decides",
        advice="train the trunk longer and the branches shorter, or give reasoning sources more weight",
    ),
    Failure(
        "A2", "data without reasoning of several steps",
        cause="short or flat texts give memory and recursion nothing to do", phases=("cognate",),
        measured="gate/m_usage, act/avg_steps, loss/total",
        threshold="usage < 0.2 or steps < 1.5 over 1,000 steps; loss flat over 1,000 steps",
        mitigation="warning with the figures", fallback="train on",
        advice="`agent-forge data inspect` shows the levels; add sources with reasoning",
        signals=(
            Signal("gate/m_usage", "below", 0.2, window=1000),
            Signal("act/avg_steps", "below", 1.5, window=1000),
            Signal("loss/total", "flat", 0.001, window=1000),
        ),
    ),
    Failure(
        "B1", "parameter budget overrun",
        cause="vocabulary, width or depth chosen without counting", phases=("cognate",),
        measured="parameters counted at construction", threshold="outside the preset's target ± tolerance",
        mitigation="refused before training; the message names parts and knobs with computed savings",
        fallback="none: the run does not start", shown="error message, exit code 2",
        advice="take the first knob that the message names",
        correction="the written savings (d_mem 256→192 saves 1M, a layer 3M) are wrong: they are computed",
    ),
    Failure(
        "B2", "sliding-window attention fails at long range",
        cause="nothing carries information beyond the window", phases=("cognate",),
        measured="probe of recall by distance", threshold="far recall at chance while near recall is not",
        mitigation="global tokens; gated memory", fallback="warning",
        shown="figures of the probe", advice="widen the window or add global tokens",
    ),
    Failure(
        "C1", "adaptive halting always or never halts",
        cause="the halting head saturates before its targets mean anything", phases=("cognate",),
        measured="act/halt_prob_step0, act/largest_halt_prob",
        threshold="first step's probability > 0.9, or the largest < 0.1, over 200 steps",
        mitigation="the threshold moves: up when it always halts, down when it never does", fallback="warning",
        advice="always halting: raise the threshold; never halting: lower it",
        signals=(
            Signal("act/halt_prob_step0", "above", 0.9, window=200, level="act"),
            Signal("act/largest_halt_prob", "below", 0.1, window=200, level="act"),
        ),
        correction="a halt fires when p > threshold; the written advice had the sign reversed",
    ),
    Failure(
        "C2", "training unstable",
        cause="gradients through many recursions grow; a batch, a weight or the rate sets them off",
        phases=("cognate",), measured="loss/total, grad/norm",
        threshold="NaN at once; a jump far outside of the last 100 losses; norm > 100 over 10 steps",
        mitigation="gradients are clipped; back to the last good state", fallback="stop with its diagnosis",
        advice="lower the learning rate or the number of recursions",
        signals=(
            Signal("loss/total", "not_finite", level="act"),
            Signal("grad/norm", "not_finite", level="act"),
            Signal("grad/norm", "above", 100.0, window=10),
            Signal("loss/total", "rise", 1.0, window=100),
        ),
    ),
    Failure(
        "D1", "Grokfast amplifies too much",
        cause="the slow part of the gradient is added with too much weight", phases=("cognate",),
        measured="grokfast/ratio (filtered over raw gradient norm), rise of the loss",
        threshold="ratio > 2.0 (healthy 1.0 to 1.5), or the loss rises by 1.0 within 100 steps",
        mitigation="λ is lowered, then off", fallback="plain Muon", advice="set the Grokfast weight to 0",
        signals=(Signal("grokfast/ratio", "above", 2.0, window=100, level="act"),),
    ),
    Failure(
        "D2", "Newton–Schulz diverges",
        cause="a badly scaled or rank-deficient update", phases=("cognate",),
        measured="optim/orthogonality_error, normalised by √rank on the short side",
        threshold="> 0.6, three looks in a row", mitigation="more iterations, then a more exact method",
        fallback="warning", advice="raise the number of iterations",
        signals=(Signal("optim/orthogonality_error", "above", 0.6, window=1000, level="act"),),
        correction="the quintic keeps singular values in about 0.7–1.2, so an absolute error < 0.1 cannot be met",
    ),
    Failure(
        "D3", "QK-clip fires too often",
        cause="attention logits grow", phases=("cognate",), measured="optim/qk_clip_count",
        threshold="> 100 warns, > 500 acts, over 100 steps", mitigation="τ is raised",
        fallback="warning", advice="switch QK-norm on: it bounds the logits",
        signals=(
            Signal("optim/qk_clip_count", "above", 100, window=100),
            Signal("optim/qk_clip_count", "above", 500, window=100, level="act"),
        ),
    ),
    Failure(
        "E1", "rotary key damaged by clipping",
        cause="a key that heads share is scaled by one of them", phases=("cognate",),
        measured="attn/rope_norm: smallest norm of a layer's keys over the largest", threshold="< 0.05 over 200 steps",
        mitigation="only the query is scaled where the key is shared", fallback="warning",
        advice="switch the clip off: QK-norm bounds the logits",
        signals=(Signal("attn/rope_norm", "below", 0.05, window=200),),
    ),
    Failure(
        "E2", "attention sinks",
        cause="heads park their mass on a few tokens", phases=("cognate",),
        measured="attn/sinks: tokens that take more than half of the mass; attn/entropy_fraction",
        threshold="> 10 over 200 steps", mitigation="attention entropy joins the objective", fallback="warning",
        advice="add global tokens",
        signals=(Signal("attn/sinks", "above", 10.0, window=200, level="act"),),
        correction="a causal mean at 512 tops out near 5.2 nats: entropy is given as a fraction of what is possible",
    ),
    Failure(
        "F1", "logging slows training",
        cause="a slow disk or too many metrics", phases=("cognate", "evomerge", "bitnet", "compression"),
        measured="rows that wait; throughput with and without tracking", threshold="queue full; > 2% slower",
        mitigation="the queue thins itself out and counts; it never blocks", fallback="no curves for that stretch",
        shown="counts in the file of curves, report", advice="log less often",
    ),
    Failure(
        "F2", "a state is corrupt",
        cause="power cut, bit rot, a foreign writer", phases=("cognate", "evomerge", "bitnet", "compression"),
        measured="digest after each save and at each load", threshold="one bit",
        mitigation="same-folder temporary file, fsync, rename, fsync of the folder; three states are kept",
        fallback="the newest intact state", shown="resume, verify", advice="check the disk",
        correction="a move across file systems is not atomic",
    ),
    Failure(
        "G1", "merging breaks recursion",
        cause="halting or gate of the merge lies outside its parents' range", phases=("cognate", "evomerge"),
        measured="bits per byte of a merge against the mean of its parents; its halting and gate against theirs",
        threshold="worse than the mean; outside the parents' range",
        mitigation="warning with the figures; the search keeps the best parent among its candidates",
        fallback="the gate decides",
        advice="train the branches for a shorter time from the trunk",
    ),
    Failure(
        "G2", "the optimizer's configuration does not carry over",
        cause="two classes for one thing", phases=("cognate", "bitnet"), measured="the same keywords in each phase",
        threshold="any difference", mitigation="one optimizer, plain keywords", fallback="none",
        shown="tests", advice="",
    ),
)  # fmt: skip

LATER_PHASES: tuple[Failure, ...] = (
    Failure(
        "CF1", "memory overflow in evolution (RISK-001)",
        cause="all candidates in memory at once", phases=("evomerge",),
        measured="resident memory of the phase over its limit", threshold="≥ 80%",
        mitigation="candidates are merged one at a time and stream tensor by tensor", fallback="smaller population",
        advice="lower evomerge.population or raise the memory limit",
    ),
    Failure(
        "CF2", "divergence at the edge of chaos",
        cause="a curriculum that is too hard too soon", phases=("forge",), measured="loss variance, NaN, accuracy",
        threshold="variance > 0.5", mitigation="last stable state; chaos and rate halved", fallback="stop",
        later=_NOT_BUILT,
    ),
    Failure(
        "CF3", "compression below usable",
        cause="a codec that is too coarse for a tensor", phases=("compression",),
        measured="retention against the model that entered the phase, after each stage", threshold="< 95%",
        mitigation="the stage is rolled back tensor group by tensor group", fallback="a weaker rate",
        advice="allow more bytes or choose fewer codecs",
    ),
    Failure(
        "PR2", "evaluation is the bottleneck of evolution",
        cause="every candidate evaluated in full, duplicates again", phases=("evomerge",),
        measured="evaluations by genotype", threshold="a genotype evaluated twice",
        mitigation="scores are kept by genotype", fallback="smaller population",
        advice="fewer documents for selection",
    ),
    Failure(
        "PR3", "thoughts corrupt sequences", cause="incoherent thoughts", phases=("quietstar",),
        measured="coherence of thoughts", threshold="< 0.7", mitigation="no thought is injected", fallback="phase off",
        later=_NOT_BUILT,
    ),
    Failure(
        "PR4", "quantization destroys the model",
        cause="too few bits, too fast", phases=("bitnet",), measured="retention after the phase", threshold="< 95%",
        mitigation="gradual blend, recovery with distillation", fallback="more bits for the layers that hurt most",
        advice="more recovery steps",
        signals=(Signal("bitnet/loss", "not_finite", level="act"),),
    ),
    Failure(
        "PR5", "dreams hallucinate", cause="training on own output", phases=("forge",), measured="retention",
        threshold="< 98%", mitigation="real data mixed in", fallback="fewer dreams", later=_NOT_BUILT,
    ),
    Failure(
        "PR6", "tools conflict with the model", cause="prompts that exclude each other", phases=("baking",),
        measured="tool suite", threshold="< 90%", mitigation="tools one by one", fallback="fewer tools",
        later=_NOT_BUILT,
    ),
    Failure(
        "PR7", "expert vectors incompatible", cause="other shapes or scales", phases=("edge",),
        measured="gain of each vector", threshold="≤ 0", mitigation="normalised", fallback="vector left out",
        later=_NOT_BUILT,
    ),
    Failure(
        "PR8", "target size out of reach",
        cause="the budget is below what any allocation can reach", phases=("compression",),
        measured="bytes of the finished file", threshold="> the budget",
        mitigation="the allocation searches all codecs", fallback="a clear error, or the larger file marked degraded",
        advice="raise the budget or lower the retention that is asked for",
    ),
    Failure(
        "RISK-002", "special tokens corrupted by quantization",
        cause="a rule by name takes embedding or head for a body matrix", phases=("bitnet", "compression"),
        measured="rows of special tokens before and after", threshold="one bit",
        mitigation="roles by module", fallback="none: the handoff is refused", shown="handoff check",
    ),
    Failure(
        "RISK-004", "gradients vanish in ternary training",
        cause="rounding has no gradient", phases=("bitnet",),
        measured="bitnet/gradient_share: latent weights with a gradient", threshold="< 0.5 over 20 steps",
        mitigation="straight-through estimator with scale (round and clip)", fallback="stop with its diagnosis",
        advice="check the blend schedule",
        signals=(Signal("bitnet/gradient_share", "below", 0.5, window=20, level="act"),),
        correction="round and clip, not sign",
    ),
)  # fmt: skip
