"""From what a user types to a model: a folder, a `.forge` file, a digest or a session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from agent_forge.contract import ONNX_MANIFEST, Artifact
from agent_forge.errors import HandoffError, ModelNotFound
from agent_forge.pipeline.session import exists
from agent_forge.storage.home import Home

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from agent_forge.agent.design import AgentDesign
    from agent_forge.agent.interpreter import Equip
    from agent_forge.agent.routes import FirstPass
    from agent_forge.agent.toolbox import Toolbox
    from agent_forge.model.decoder import Decoder

_NEWEST_FIRST = ("agent", "model", "trunk")
"""Of a session's handoffs, which one a person means by its name."""


@dataclass(frozen=True)
class Agent:
    """A model with its way of going about questions.

    Attributes:
        model, tokenizer: it.
        design: how it goes about a question; None = it has none, or none was wanted.
        first_pass: tells kinds of question apart, for a design with routes.
        equip: puts on the experts that a row of the design asks for; None = none does.
        left_out: experts that the design asked for and that cannot be used, with the reasons; no row asks for them now.
    """

    model: Decoder
    tokenizer: PreTrainedTokenizerBase
    design: AgentDesign | None = None
    first_pass: FirstPass | None = None
    equip: Equip | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


def resolve_model(reference: str, home_path: Path | None) -> Path:
    """The folder or file that ``reference`` names.

    Args:
        reference: a checkpoint folder, a `.forge` file, an artifact digest (8 characters or more),
            a session, or ``session/handoff`` such as ``demo/trunk``.
        home_path: where sessions and artifacts are; not needed for a path.

    Raises:
        ModelNotFound: nothing has that name.
    """
    path = Path(reference)
    if path.is_file() or (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise ModelNotFound(f"{reference} is a folder without config.json, so it holds no checkpoint")
    if home_path is None or not (home_path / "registry.db").is_file():
        raise ModelNotFound(f"no model {reference!r}: it is no path, and there is no home at {home_path}")
    home = Home.open(home_path, create=False)
    try:
        artifact = _by_session(home, reference) or _by_digest(home, reference)
        return only_file(home.blobs.view(artifact))
    finally:
        home.close()


def _by_session(home: Home, reference: str) -> Artifact | None:
    name, _, handoff = reference.partition("/")
    if not exists(home, name):
        return None
    given: dict[str, Sequence[Artifact]] = {}
    for run in home.registry.phase_runs(name):
        if run.status in ("completed", "reused"):
            given.update(run.outputs)
    if handoff:
        group, _, specialty = handoff.partition("_")
        for artifact in given.get(group, ()):
            if not specialty or artifact.facts.get("specialization") == specialty:
                return artifact
        raise ModelNotFound(f"session {name!r} has no {handoff!r}; it has {', '.join(sorted(given)) or 'nothing yet'}")
    for wanted in _NEWEST_FIRST:
        if wanted in given:
            return given[wanted][0]
    raise ModelNotFound(f"session {name!r} has no model yet; `agent-forge resume {name}` goes on with it")


def _by_digest(home: Home, reference: str) -> Artifact:
    try:
        return home.registry.artifact(reference).artifact
    except ModelNotFound:
        raise ModelNotFound(
            f"no model {reference!r}: it is neither a path nor a session nor a digest in {home.path}; "
            "`agent-forge models list` shows what there is"
        ) from None


def only_file(folder: Path) -> Path:
    """The `.forge` file of an agent's folder; any other folder itself."""
    files = [path for path in folder.iterdir() if path.suffix == ".forge"]
    return files[0] if files else folder


def load_reference(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint folder or a `.forge` file.

    Raises:
        ModelNotFound: a file of another kind.
        ArtifactCorrupt: a `.forge` file that was truncated or altered.
        HandoffError: a checkpoint that cannot be used.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if path.is_dir():
        from agent_forge.model.checkpoint import load_model

        return load_model(path)
    if path.suffix != ".forge":
        raise ModelNotFound(f"{path} is neither a checkpoint folder nor a .forge file")
    from agent_forge.phases.compression.forge_file import read_model

    return read_model(path)


def load_design(path: Path) -> AgentDesign | None:
    """How the agent of a checkpoint folder or a `.forge` file goes about questions, or None where it has no design.

    Raises:
        ArtifactCorrupt: a design that cannot be read, or with a part that this version does not know.
    """
    from agent_forge.agent.belongings import DESIGN
    from agent_forge.agent.design import AgentDesign

    if path.is_dir():
        return AgentDesign.load(path)
    from agent_forge.phases.compression.attachments import attachments

    text = attachments(path).get(DESIGN)
    return None if text is None else AgentDesign.parse(text, f"{path}: {DESIGN}")


def with_usable_experts(
    path: Path, model: PreTrainedModel, design: AgentDesign
) -> tuple[AgentDesign, Equip | None, dict[str, str]]:
    """The design without the experts that are not there or cannot be used on this model.

    A row that asks for one of them has the model as it is.

    Returns:
        The design; what puts on the experts that it still asks for, None where it asks for none; and the reason for
        each that was left out.
    """
    from agent_forge.agent.belongings import EXPERTS
    from agent_forge.agent.equipment import asked_for, with_experts
    from agent_forge.model.expert_vectors import load_experts

    asked = asked_for(design)
    if not asked:
        return design, None, {}
    with _beside(path, EXPERTS) as folder:
        try:
            usable, skipped = load_experts(folder, model)
        except HandoffError as error:
            usable, skipped = [], dict.fromkeys(asked, str(error))
    missing = [name for name in asked if name not in {expert.name for expert in usable}]
    left_out = {name: skipped.get(name, "it is not among the agent's experts") for name in missing}
    design = design.without_experts(left_out)
    return design, with_experts(usable) if asked_for(design) else None, left_out


def load_agent(path: Path, *, designed: bool = True) -> Agent:
    """The agent of a checkpoint folder, a `.forge` file or an exported graph, without its tools.

    Args:
        path: as `resolve_model` gives it.
        designed: whether its design is wanted, with the experts and the classifier that it needs.

    Raises:
        ModelNotFound, ArtifactCorrupt, HandoffError: as `load_reference`, `load_design` and `load_first_pass`.
        ConfigError: a graph, and onnxruntime is not installed.
    """
    if is_export(path):
        return _load_export(path, load_design(path) if designed else None)
    model, tokenizer = load_reference(path)
    design = load_design(path) if designed else None
    if design is None:
        return Agent(model, tokenizer)
    design, equip, left_out = with_usable_experts(path, model, design)
    return Agent(model, tokenizer, design, load_first_pass(path, model, tokenizer, design), equip, left_out)


def _load_export(path: Path, design: AgentDesign | None) -> Agent:
    from agent_forge.phases.edge.onnx_model import carried_out, load_graph

    model, tokenizer = load_graph(path)
    if design is None:
        return Agent(model, tokenizer)
    with _or_without(path):
        return Agent(model, tokenizer, design, *carried_out(model, tokenizer, design))


def is_export(path: Path) -> bool:
    """Whether a folder holds an exported graph, and no weights."""
    return (path / ONNX_MANIFEST).is_file() and not any(path.glob("*.safetensors"))


def load_first_pass(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, design: AgentDesign
) -> FirstPass | None:
    """What tells kinds of question apart for a design with routes; None for one without.

    Raises:
        HandoffError: the classifier is not there, cannot be read, or does not fit.
    """
    from agent_forge.agent.belongings import ROUTES
    from agent_forge.agent.routes import open_first_pass

    if not design.routes:
        return None
    with _beside(path, ROUTES) as folder, _or_without(path):
        return open_first_pass(folder, model, tokenizer, design)


@contextmanager
def _or_without(path: Path) -> Iterator[None]:
    """A design that lacks something is told with its place, and with what to do."""
    try:
        yield
    except HandoffError as error:
        raise HandoffError(f"{path}: {error}; --no-design does without") from error


@contextmanager
def _beside(path: Path, name: str) -> Iterator[Path]:
    """A folder with a belonging of a checkpoint folder or a `.forge` file, if it has it."""
    if path.is_dir():
        yield path
        return
    from agent_forge.phases.compression.attachments import attachments

    with TemporaryDirectory() as place:
        if name in (files := attachments(path)):
            (Path(place) / name).write_bytes(files[name])
        yield Path(place)


def load_toolbox(path: Path, **options: Any) -> Toolbox | None:
    """The tools of a checkpoint folder or a `.forge` file, or None where it has none.

    Args:
        path: as `resolve_model` gives it.
        options: ``folder``, ``embed`` and ``audit`` of `Toolbox.from_json`.

    Raises:
        ArtifactCorrupt: a manifest or an index that cannot be read.
        ConfigError: a tool that this version does not know.
        DataError: a ``folder`` that cannot be used.
    """
    from agent_forge.agent.belongings import KNOWLEDGE, MANIFEST
    from agent_forge.agent.toolbox import Toolbox

    if path.is_dir():
        return Toolbox.load(path, **options)
    from agent_forge.phases.compression.attachments import attachments

    files = attachments(path)
    if MANIFEST not in files:
        return None
    return Toolbox.from_json(files[MANIFEST], files.get(KNOWLEDGE), where=f"{path}: {MANIFEST}", **options)
