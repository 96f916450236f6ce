"""The command line as a person meets it, and the smoke pipeline, run once, for every room's tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "src"
TINY = {
    "threads": 1, "data.synthetic_bytes": 50_000, "data.levels": "[1]",
    "cognate.model.hidden_size": 32, "cognate.model.num_hidden_layers": 1, "cognate.model.intermediate_size": 48,
    "cognate.steps": 60, "cognate.batch_tokens": 256, "cognate.checkpoint_every": 5,
    "cognate.test_documents": 2, "cognate.validation_documents": 2,
    "evomerge.generations": 1, "evomerge.final_documents": 2, "evomerge.test_documents": 2,
    "evomerge.selection_documents": 2,
    "bitnet.recovery_steps": 5, "bitnet.stages": 1, "bitnet.stage_steps": 2, "bitnet.test_documents": 2,
    "bitnet.calibration_samples": 8, "gates": "{}",
}  # fmt: skip
"""Settings under which each phase takes about a second; the gates of smoke are about its own size."""


@dataclass(frozen=True)
class Answer:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def sentence(self) -> str:
        """The one line of an expected error; nothing else may stand on standard error."""
        lines = [line for line in self.err.splitlines() if not line.startswith("[")]  # progress
        assert len(lines) == 1, self.err
        assert lines[0].startswith("agent-forge: "), self.err
        assert "Traceback" not in self.err
        return lines[0]


def tiny(**changes: Any) -> list[str]:
    """Arguments of a run of seconds; ``__`` stands for a dot."""
    values = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    settings = [text for key, value in values.items() for text in ("--set", f"{key}={value}")]
    return ["run", "--preset", "smoke", "--phases", "cognate,evomerge,bitnet,compression", *settings]


def call(*arguments: object, stdin: str = "") -> Answer:
    """The command line in this process: its fork server stays, so that runs are quick."""
    from agent_forge.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["agent-forge", *map(str, arguments)], io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv, sys.stdin = before
    return Answer(code, out.getvalue(), err.getvalue())


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "agent_forge.cli.main", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def call_apart(*arguments: object, stdin: str = "", **options: Any) -> Answer:
    """The command line in a process of its own, until it ends."""
    with start(*arguments, **options) as process:
        out, err = process.communicate(stdin, timeout=600)
    return Answer(process.returncode, out, err)


@pytest.fixture(scope="session")
def forge() -> Callable[..., Answer]:
    return call


@pytest.fixture(scope="session")
def forge_apart() -> Callable[..., Answer]:
    return call_apart


@pytest.fixture(scope="session")
def forge_process() -> Callable[..., subprocess.Popen[str]]:
    return start


@pytest.fixture(scope="session")
def tiny_run() -> Callable[..., list[str]]:
    return tiny


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """The home of one run of preset smoke, session ``smoke``, and what the run said. Copy it before changing it."""
    home = tmp_path_factory.mktemp("smoke") / "home"
    return home, call_apart("run", "--preset", "smoke", "--home", home, "--session", "smoke", "--set", "threads=1")


@pytest.fixture(scope="session")
def trained_cognate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder with a small ``corpus`` and, as ``model``, a Cognate that was trained on it for a few seconds."""

    def make(steps: int, **shape: Any) -> Path:
        import torch

        from agent_forge.data.corpora import Corpus, ingest
        from agent_forge.data.packing import Batches, pack
        from agent_forge.data.tokenizer import train_tokenizer
        from agent_forge.model import CognateConfig, CognateForCausalLM
        from agent_forge.model.checkpoint import save_model
        from agent_forge.optim.muon_grokfast import MuonGrokfast, matrix_names

        root = tmp_path_factory.mktemp("trained")
        ingest(["synthetic"], root / "corpus", seed=0, synthetic_bytes=120_000, levels=(1, 2))
        corpus = Corpus.open(root / "corpus")
        tokenizer = train_tokenizer(corpus.training_texts(100_000), 320)
        shards = {domain: pack(corpus.documents(domain, "train"), tokenizer) for domain in corpus.domains}
        batches = Batches(shards, corpus.mixture(), sequence_length=32, batch_size=16, seed=0)
        torch.manual_seed(0)
        model = CognateForCausalLM(CognateConfig(vocab_size=320, hidden_size=64, num_attention_heads=2, **shape))
        optimizer = MuonGrokfast(model.named_parameters(), matrix_names(model), lr=1e-2, adamw_lr=5e-3)
        for step in range(steps):
            loss = model(**batches.batch(step), use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save_model(model.eval(), tokenizer, root / "model", {})
        return root

    return make


@pytest.fixture
def make_llama() -> Callable[..., Any]:
    """Tiny Llamas with 300 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0, hidden: int = 32, tied: bool = True, **changes: Any) -> Any:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=300, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, **changes,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()

    return make
