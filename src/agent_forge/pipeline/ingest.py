"""Step 0 of every plan: text sources become one immutable corpus artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from agent_forge.contract import Artifacts, Context
from agent_forge.data.config import DataConfig


class DataStep:
    """Reads, filters and splits the sources of the configuration."""

    name: ClassVar[str] = "data"
    version: ClassVar[int] = 1
    consumes: ClassVar[Mapping[str, str]] = {}
    produces: ClassVar[Mapping[str, str]] = {"corpus": "corpus"}

    def run(self, config: DataConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Writes the corpus; reports how much there is and how much was dropped."""
        from agent_forge.data.corpora import ingest

        folder = context.scratch / "corpus"
        facts = ingest(config, folder, seed=context.seed, progress=context.progress)
        context.report({"data/documents": facts["documents"], "data/bytes": facts["bytes"]})
        context.attach("corpus", facts)
        return {"corpus": context.save_folder("corpus", folder, **facts)}


INGEST = DataStep()


def source_digests(config: DataConfig) -> list[str]:
    """Digests of the bytes of all source files: a corpus is only reused while its files are unchanged."""
    from agent_forge.data.corpora import source_files
    from agent_forge.pipeline.memory_context import file_digest

    return [f"{path.name}:{file_digest(path)}" for path in source_files(config)]
