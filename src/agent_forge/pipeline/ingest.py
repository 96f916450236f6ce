"""Step 0 of every plan: text sources become one immutable corpus artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from agent_forge.contract import Artifacts, Context, Declaration
from agent_forge.data.config import DataConfig

if TYPE_CHECKING:
    from agent_forge.data.sources import Source


class DataStep:
    """Reads, filters and splits the sources of the configuration."""

    declaration: ClassVar[Declaration] = Declaration("data", 2, consumes={}, produces={"corpus": "corpus"})
    name: ClassVar[str] = declaration.name
    version: ClassVar[int] = declaration.version
    consumes: ClassVar[Mapping[str, str]] = declaration.consumes
    produces: ClassVar[Mapping[str, str]] = declaration.produces

    def run(self, config: DataConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Writes the corpus; attaches how much there is and how much was dropped."""
        from agent_forge.data.corpora import ingest
        from agent_forge.data.filters import FilterSettings

        folder = context.scratch / "corpus"
        facts = ingest(
            config.sources,
            folder,
            seed=context.seed,
            eval_data=config.eval_sources,
            mixture=config.mixture or None,
            filters=FilterSettings(config.min_bytes, config.max_bytes, config.min_quality, config.near_duplicates),
            synthetic_bytes=config.synthetic_bytes,
            levels=config.levels,
            tool_share=config.tool_share,
        )
        context.attach("corpus", facts)
        return {"corpus": context.save_folder("corpus", folder)}


INGEST = DataStep()


def check_sources(config: DataConfig) -> None:
    """Refuses sources that are not there, without reading them.

    Raises:
        DataError: a source does not exist or is of an unknown kind, or held-out data has the name of a domain.
    """
    _sources(config)


def _sources(config: DataConfig) -> list[Source]:
    from agent_forge.data.sources import expand_all, refuse_shared_names

    trained, held = expand_all(config.sources), expand_all(config.eval_sources, each_its_own=True)
    refuse_shared_names(trained, held)
    return [*trained, *held]


def source_digests(config: DataConfig) -> list[str]:
    """Digests of the bytes of all source files: a corpus is only reused while its files are unchanged.

    Raises:
        DataError: as `check_sources`.
    """
    from agent_forge.pipeline.memory_context import file_digest

    digests = []
    for source in _sources(config):
        body = file_digest(source.path) if source.path is not None else source.hub
        digests.append(f"{source.domain}:{source.name}:{body}")
    return digests
