"""A conversation with an agent, wherever it lies: model, tools, a folder of texts, and what was said before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.errors import ConfigError

if TYPE_CHECKING:
    from agent_forge.agent.design import AgentDesign
    from agent_forge.agent.interpreter import Equip
    from agent_forge.agent.retrieval import Retriever
    from agent_forge.agent.routes import FirstPass
    from agent_forge.agent.runtime import Piece
    from agent_forge.agent.toolbox import Toolbox
    from agent_forge.agent.transcript import Transcript, Turn

_PASSAGES = 2


@dataclass
class Talk:
    """An agent and what was said to it.

    Attributes:
        model, tokenizer: the agent.
        options: of the decoding, as `agent_forge.agent.runtime.stream` takes them.
        toolbox: what it may call; None: nothing.
        design: how it goes about a question; None: one attempt, with the options.
        first_pass: tells kinds of question apart, for a design with routes.
        equip: puts on the experts that the design and its routes ask for; None: they ask for none.
        left_out: experts that the design asks for and that cannot be used, each with the reason; a row of the design
            that asks for one has the model as it is.
        retriever: its best passages are put before each question, for an agent without a retrieval tool of its own.
        memory: the conversation so far.
    """

    model: Any
    tokenizer: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    toolbox: Toolbox | None = None
    design: AgentDesign | None = None
    first_pass: FirstPass | None = None
    equip: Equip | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    retriever: Retriever | None = None
    memory: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        reference: str,
        home: Path,
        options: Mapping[str, Any],
        *,
        tools: bool = True,
        folder: Path | None = None,
        retrieval: str = "bm25",
        designed: bool = True,
    ) -> Talk:
        """Loads an agent and its tools; their calls become events of the registry where the agent is in one.

        Args:
            reference: as a user names a model.
            home: where sessions are.
            options: of the decoding.
            tools: whether it may call its tools.
            folder: text files to look things up in.
            retrieval: how they are searched for an agent that has no tool for it: ``bm25`` or ``embedding``.
            designed: whether the agent's own design is used, if it has one; it decides on thoughts and temperature.

        Raises:
            ConfigError: an unknown way of retrieval.
            DataError: a folder that cannot be used.
            ModelNotFound, ArtifactCorrupt, HandoffError: as `load_agent`.
        """
        from agent_forge.agent.embeddings import embedder
        from agent_forge.agent.retrieval import MODES, Retriever
        from agent_forge.pipeline.resolve import load_agent, load_toolbox, resolve_model
        from agent_forge.pipeline.tool_audit import audit_for

        mode = next((known for known in MODES if known == retrieval), None)
        if mode is None:
            raise ConfigError(f"retrieval {retrieval!r} is not one of {', '.join(MODES)}")
        path = resolve_model(reference, home)
        agent = load_agent(path, designed=designed)
        embed = embedder(agent.model, agent.tokenizer)
        talk = cls(
            agent.model, agent.tokenizer, options,
            design=agent.design, first_pass=agent.first_pass, equip=agent.equip, left_out=agent.left_out,
        )  # fmt: skip
        if tools:
            talk.toolbox = load_toolbox(path, folder=folder, embed=embed, audit=audit_for(reference, home, path))
        if folder is not None and not any(tool.kind == "retrieve" for tool in talk.tools()):
            talk.retriever = Retriever.of_folder(folder, mode, embed)
        return talk

    def tools(self) -> list[Any]:
        """What it may call."""
        return [] if self.toolbox is None else list(self.toolbox.tools.values())

    def ask(self, question: str, *, remember: bool = False) -> Transcript:
        """Answers a question; as `steps`."""
        transcript, steps = self.steps(question, remember=remember)
        for _ in steps:
            pass
        return transcript

    def steps(self, question: str, *, remember: bool = False) -> tuple[Transcript, Iterator[Piece | Turn]]:
        """A transcript, and the steps that fill it.

        Args:
            question: what the user says.
            remember: keep it and the answer for the next question. Off, each question stands alone, as the models of
                this size were trained; calls, results and thoughts are never kept.
        """
        from agent_forge.agent.transcript import Transcript

        transcript = Transcript()
        return transcript, self._run(question, transcript, remember)

    def _run(self, question: str, transcript: Transcript, remember: bool) -> Iterator[Piece | Turn]:
        asked = question
        if self.retriever is not None:
            found = self.retriever.find(question, _PASSAGES)
            asked = "\n".join([*(passage.text for passage, _ in found), question])
        messages = [*self.memory, {"role": "user", "content": asked}]
        yield from self._answer(question, messages, transcript)
        if remember:
            self.memory.append({"role": "user", "content": question})
            self.memory.append({"role": "assistant", "content": transcript.answer})

    def _answer(
        self, question: str, messages: Sequence[Mapping[str, str]], transcript: Transcript
    ) -> Iterator[Piece | Turn]:
        """One attempt is shown while it is made; of several, the one that won, afterwards. The kind of question is told
        by its own words, without passages."""
        from agent_forge.agent.interpreter import answer, as_options
        from agent_forge.agent.runtime import stream

        design = self.design
        if design is None:
            yield from stream(self.model, self.tokenizer, self.toolbox, messages, transcript, **self.options)
            return
        if self.first_pass is not None:
            design = design.route(self.first_pass([question])[0])
        with self._equipped(design):
            if design.is_one_attempt:
                tools = None if design.tools == "never" else self.toolbox
                options = {**self.options, **as_options(design)}
                yield from stream(self.model, self.tokenizer, tools, messages, transcript, **options)
                return
            chosen = {key: self.options[key] for key in ("seed", "max_tokens") if key in self.options}
            won = answer(self.model, self.tokenizer, self.toolbox, design, [messages], **chosen)[0]
        transcript.turns += won.transcript.turns
        transcript.ids += won.transcript.ids
        transcript.stopped, transcript.num_tokens = won.transcript.stopped, won.num_tokens
        yield from won.transcript.turns

    def _equipped(self, design: AgentDesign) -> AbstractContextManager[Any]:
        """The model with the experts of a design."""
        return nullcontext() if self.equip is None else self.equip(self.model, design)
