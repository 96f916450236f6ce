"""An exported graph in the place of the model that it was made from: decoding and the agent's loop run it.

It is a `agent_forge.model.decoder.Decoder`: rows of a batch are read one after the other, each with a past of its own
and without its padding, so a row says what it would say alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.equipment import asked_for, needed, with_experts
from agent_forge.agent.interpreter import Equip
from agent_forge.agent.routes import FirstPass, first_pass, fitting
from agent_forge.errors import ArtifactCorrupt, HandoffError
from agent_forge.model.checkpoint import load_tokenizer
from agent_forge.model.expert_vectors import Expert
from agent_forge.phases.edge.onnx_agent import FEATURES, as_input, dispatcher_of, experts_of
from agent_forge.phases.edge.onnx_session import MANIFEST, OnnxSession


class GraphCache:
    """What each row of a batch remembers; empty before the first pass.

    Attributes:
        rows: one past for each row; rows may share one, because a pass makes another and changes none.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, NDArray[Any]]] = []

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps rows ``indices``, in their order and as often as they are named."""
        self.rows = [self.rows[n] for n in indices.tolist()]


@dataclass
class GraphOutput:
    """What a pass gives.

    Attributes:
        logits: [B, 1, vocab] of the token after the last.
        past_key_values: the cache that was given, after the pass.
    """

    logits: Tensor
    past_key_values: GraphCache


class GraphModel:
    """Runs an export.

    Args:
        folder: a folder that `export_onnx` wrote.
        threads: of the processor; 0 = as many as torch has.

    Raises:
        ConfigError, ArtifactCorrupt: as `OnnxSession`.
    """

    device = torch.device("cpu")

    def __init__(self, folder: Path | str, *, threads: int = 0) -> None:
        self.session = OnnxSession(folder, threads=threads or torch.get_num_threads())
        # neither window nor recursion_steps: a design cannot change what is built into the graph
        self.config: Any = SimpleNamespace(n_positions=_positions(self.session.folder))

    def make_cache(self) -> GraphCache:
        """An empty past."""
        return GraphCache()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        past_key_values: GraphCache,
        use_cache: bool = True,
        logits_to_keep: int = 1,
    ) -> GraphOutput:
        """Reads new tokens of every row.

        Args:
            input_ids: [B, T] new tokens.
            attention_mask: [B, past + T], 0 = padding, which is left out; None = no padding.
            past_key_values: of `make_cache` at first; it is changed.
            use_cache, logits_to_keep: as a graph has them: True and 1.

        Raises:
            ValueError: anything but the logits of the next token is asked for, or the cache has other rows.
        """
        if not use_cache or logits_to_keep != 1:
            raise ValueError(f"{self.session.folder} is an ONNX graph, which gives only the logits of the next token")
        cache = past_key_values
        cache.rows = cache.rows or [self.session.empty() for _ in range(len(input_ids))]
        if len(cache.rows) != len(input_ids):
            raise ValueError(f"the cache has {len(cache.rows)} rows, and tokens were given for {len(input_ids)}")
        given = input_ids.tolist()
        if attention_mask is not None:
            real = attention_mask[:, -input_ids.shape[1] :].tolist()
            given = [list(compress(*row)) for row in zip(given, real, strict=True)]
        logits = []
        for n, ids in enumerate(given):
            self.session.past = cache.rows[n]
            logits.append(torch.from_numpy(self.session.step(ids)))
            cache.rows[n] = self.session.past
        return GraphOutput(torch.stack(logits)[:, None], cache)

    __call__ = forward

    @contextmanager
    def wearing(self, expert: Expert) -> Iterator[None]:
        """Within, it computes with one of its experts or a mixture of them."""
        before, self.session.experts = self.session.experts, as_input(expert, self.session.manifest)
        try:
            yield
        finally:
            self.session.experts = before

    def mean_hidden(self, ids: Sequence[int], skip: int = 0) -> Tensor:
        """What the head reads, float64 [d], averaged over a text after its first ``skip`` tokens.

        Raises:
            ConfigError: the graph was made for a design without routes, and gives nothing but logits.
        """
        return torch.from_numpy(self.session.mean_features(list(ids), skip))


def load_graph(folder: Path) -> tuple[GraphModel, PreTrainedTokenizerBase]:
    """The graph of an export, and its tokenizer.

    Raises:
        ConfigError, ArtifactCorrupt: as `GraphModel`.
        HandoffError: a tokenizer that cannot be loaded, or with more tokens than the graph has.
    """
    tokenizer = load_tokenizer(folder)
    model = GraphModel(folder)
    rows = model.session.manifest["vocab_size"]
    if len(tokenizer) > rows:
        raise HandoffError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the graph knows {rows}")
    return model, tokenizer


def carried_out(
    model: GraphModel, tokenizer: PreTrainedTokenizerBase, design: AgentDesign
) -> tuple[FirstPass | None, Equip | None]:
    """What a design needs of its graph: the first pass of its routes, and its experts.

    Raises:
        ArtifactCorrupt: ``onnx.json`` says something about them that does not hold together.
        HandoffError: the graph was exported for another design, and lacks them.
    """
    manifest, where = model.session.manifest, str(model.session.folder / MANIFEST)
    equip, recognise = None, None
    if asked_for(design):
        equip = with_experts(needed(experts_of(manifest, where), {}, design), GraphModel.wearing)
    if design.routes:
        dispatcher = dispatcher_of(manifest, where)
        if dispatcher is None or FEATURES not in manifest:
            raise HandoffError("the design has routes, and the graph was exported for one without")
        dispatcher = fitting(dispatcher, int(manifest[FEATURES]["shape"][1]), design, MANIFEST)
        recognise = first_pass(model, tokenizer, dispatcher)
    return recognise, equip


def _positions(folder: Path) -> int | None:
    """Positions that the model has a table for; None = no bound."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("n_positions")
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactCorrupt(f"{path} does not describe a model: {error!r}") from error
    return None if found is None else int(found)
