import pytest

from agent_forge.data.corpora import ingest
from agent_forge.phases.cognate.config import CognatePhaseConfig
from agent_forge.pipeline.memory_context import MemoryContext

SHAPE = {
    "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "sliding_window": 64, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "corpus"
    ingest(["synthetic"], folder, seed=0, synthetic_bytes=60_000)
    return folder


@pytest.fixture
def make_config():
    def make(shape=None, **changes):
        values = {
            "model": {**SHAPE, **(shape or {})}, "steps": 14, "batch_tokens": 128, "precision": "fp32",
            "lengths": [{"start": 0, "tokens": 32}, {"start": 0.5, "tokens": 64}], "checkpoint_every": 4,
            "validate_every": 100, "validation_documents": 2, "test_documents": 2, "probe_every": 5, "log_every": 1,
        }  # fmt: skip
        return CognatePhaseConfig.model_validate(values | changes)

    return make


@pytest.fixture
def make_context(tmp_path, corpus_folder):
    def make(name="one", **options):
        context = MemoryContext(tmp_path / name, **options)
        return context, {"corpus": context.adopt("corpus", corpus_folder)}

    return make
