"""Decoding with an exported graph in onnxruntime: no torch, no transformers.

``onnx.json`` beside the graph says what goes in and out; this file is the reference of how to drive it:
zeros (or nothing, where a shape has "past") before the first pass, and after each pass what came out as the state
goes in as the state.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent_forge.contract import ONNX_MANIFEST as MANIFEST
from agent_forge.errors import ArtifactCorrupt, ConfigError

FORMAT = 2
_NEEDED = ("file", "vocab_size", "states", "window", "global_every")
PRUNE_SLACK = 64
"""Remembered tokens beyond those that can be seen before they are dropped, as the cache of the model does it."""


class OnnxSession:
    """One text being read and written.

    Args:
        folder: an export: the graph and ``onnx.json``.
        threads: of the processor; 0 = as many as there are cores.

    Raises:
        ConfigError: onnxruntime is not installed.
        ArtifactCorrupt: the folder is no export, or its graph wants other files.
    """

    def __init__(self, folder: Path | str, *, threads: int = 0) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.session = _load(self.folder / self.manifest["file"], threads)
        self.states: list[dict[str, Any]] = self.manifest["states"]
        self._check_names()
        part = self.manifest.get("experts")
        self.experts: NDArray[np.float32] | None = None if part is None else np.zeros(part["shape"], np.float32)
        """What experts add in every run, Σ α (z − 1), [1, N]; zeros = the model as it is. None = the graph has none."""
        self.past: dict[str, NDArray[Any]] = {}
        self.reset()

    def _check_names(self) -> None:
        told = self.manifest
        named = {
            "input": {"input_ids", *(state["input"] for state in self.states)},
            "output": {"logits", *(state["output"] for state in self.states)},
        }
        named["input"] |= {told["experts"]["input"]} if "experts" in told else set()
        named["output"] |= {told["features"]["output"]} if "features" in told else set()
        found = {"input": self.session.get_inputs(), "output": self.session.get_outputs()}
        for side, entries in found.items():
            if odd := sorted(named[side] ^ {entry.name for entry in entries}):
                raise ArtifactCorrupt(
                    f"{self.folder / told['file']} and {self.folder / MANIFEST} do not belong together: the {side} "
                    f"{odd[0]} is in one of them only"
                )

    def reset(self) -> None:
        """Forgets the text."""
        self.past = self.empty()

    def empty(self) -> dict[str, NDArray[Any]]:
        """The past before the first token."""
        return {
            state["input"]: np.zeros([0 if side == "past" else side for side in state["shape"]], state["dtype"])
            for state in self.states
        }

    def step(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Reads at least one token; gives the logits [vocab] of the next.

        Raises:
            ValueError: no token, or one that the vocabulary does not have.
        """
        return self._run(tokens, "logits")

    def mean_features(self, tokens: Sequence[int], skip: int = 0) -> NDArray[np.float64]:
        """What the head reads, [d], averaged over the tokens of a text after the first ``skip``; zeros without any.

        The text before is forgotten, and so is this one.

        Raises:
            ConfigError: the graph gives no features.
            ValueError: as `step`.
        """
        given = self.manifest.get("features")
        if given is None:
            raise ConfigError(
                f"{self.folder} is an ONNX graph without features: only a design with routes brings them along, so "
                "nothing else can compare texts by it"
            )
        self.reset()
        if skip:
            self.step(tokens[:skip])
        rest = list(tokens[skip:])
        # with a recursion the graph refines its last token alone, so the tokens are read one by one
        parts = [[token] for token in rest] if given["one_by_one"] else [rest] if rest else []
        found = [self._run(part, given["output"]).astype(np.float64) for part in parts]
        self.reset()
        mean: NDArray[np.float64] = np.mean(found, 0) if found else np.zeros(given["shape"][1])
        return mean

    def _run(self, tokens: Sequence[int], output: str) -> NDArray[np.float32]:
        """Reads at least one token; gives what the graph says under the name of one of its outputs."""
        if not tokens or not 0 <= min(tokens) <= max(tokens) < self.manifest["vocab_size"]:
            raise ValueError(f"expected at least one token from 0 to {self.manifest['vocab_size'] - 1}, got {tokens!r}")
        outputs = [output, *(state["output"] for state in self.states)]
        worn = {} if self.experts is None else {self.manifest["experts"]["input"]: self.experts}
        found = self.session.run(outputs, {"input_ids": np.array([tokens], np.int64), **worn, **self.past})
        self.past = {state["input"]: value for state, value in zip(self.states, found[1:], strict=True)}
        self._prune()
        said: NDArray[np.float32] = found[0][0]
        return said

    def greedy(self, prompt: Sequence[int], max_tokens: int, stop: Collection[int] = ()) -> Iterator[int]:
        """Continues ``prompt`` with the likeliest tokens; a stop token ends the text and is not given."""
        self.reset()
        tokens = list(prompt)
        for _ in range(max_tokens):
            token = int(self.step(tokens).argmax())
            if token in stop:
                return
            yield token
            tokens = [token]

    def _prune(self) -> None:
        """Drops what no later token can see, once that is worth a copy."""
        window, every = self.manifest["window"], self.manifest["global_every"]
        if window is None:
            return
        positions = self.past["past_positions"][0]
        if len(positions) <= window + PRUNE_SLACK:
            return
        seen = positions > positions[-1] + 1 - window
        if every:
            seen |= positions % every == 0
        if len(positions) - int(seen.sum()) < PRUNE_SLACK:
            return
        for state in self.states:
            if "past" in state["shape"]:
                axis = state["shape"].index("past")
                self.past[state["input"]] = np.compress(seen, self.past[state["input"]], axis)


def read_manifest(folder: Path) -> dict[str, Any]:
    """``onnx.json`` of an export.

    Raises:
        ArtifactCorrupt: there is none, it cannot be read, or its format is not known here.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"{path} does not describe an ONNX export: {error!r}") from error
    if version != FORMAT:
        raise ArtifactCorrupt(f"{path} has format {version}, this program reads {FORMAT}; update it")
    if missing := [key for key in _NEEDED if key not in manifest]:
        raise ArtifactCorrupt(f"{path} does not describe an ONNX export: it has no {missing[0]}")
    return manifest


def _load(path: Path, threads: int) -> Any:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"ONNX needs the extra edge: pip install agent-forge[edge] ({error})") from error
    try:
        content = path.read_bytes()
        graph = onnx.load_model_from_string(content).graph
    except Exception as error:
        raise ArtifactCorrupt(f"{path} cannot be read as an ONNX graph: {error}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise ArtifactCorrupt(f"{path} wants weights from other files; such a graph may read any file, and is refused")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
