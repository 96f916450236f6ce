"""Token shards on disk, and batches as a pure function of (seed, step).

Resume needs one integer: batch ``step`` is computed, never reached by iterating. Documents are laid into windows by
best fit (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830): a document that fits
into a window is never cut. Differences: (1) a longer document is cut into windows that overlap by one token, so that
every token but the opening mark is predicted exactly once per epoch; (2) the order of windows within an epoch is a
Feistel permutation (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"), which needs no state and no
memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import encode_documents, tokenizer_digest
from agent_forge.errors import ArtifactCorrupt, DataError

IGNORED = -100
_CYCLE = 1024  # rows after which the mixture is met exactly
_MASK64 = (1 << 64) - 1
_BYTES_PER_TOKEN = 6  # of plain text: more than most tokenizers make of it


@dataclass(frozen=True)
class TokenShard:
    """All documents of one domain as one run of tokens.

    Attributes:
        tokens: uint16 (vocabularies up to 65,536) or uint32, [N].
        prompted: uint8 [N], 1 where the token was given to the model (user turns).
        offsets: int64 [D + 1], document d is ``tokens[offsets[d]:offsets[d + 1]]``.
        tokenizer: digest of the tokenizer that made it.
    """

    tokens: np.ndarray
    prompted: np.ndarray
    offsets: np.ndarray
    tokenizer: str

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return int(self.tokens.shape[0])

    @property
    def num_documents(self) -> int:
        """Documents in all."""
        return int(self.offsets.shape[0]) - 1

    def digest(self) -> str:
        """sha256 (hex) of tokens, prompted marks and offsets."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.prompted, self.offsets):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Writes tokens.bin, prompted.bin, offsets.bin and shard.json (sizes, sha256, tokenizer) into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokens", "prompted", "offsets"):
            np.ascontiguousarray(getattr(self, name)).tofile(folder / f"{name}.bin")
        header = {
            "format": 1,
            "dtype": self.tokens.dtype.name,
            "num_tokens": self.num_tokens,
            "num_documents": self.num_documents,
            "sha256": self.digest(),
            "tokenizer": self.tokenizer,
        }
        (folder / "shard.json").write_text(json.dumps(header, indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> TokenShard:
        """Maps a saved shard into memory.

        Raises:
            ArtifactCorrupt: sizes or sha256 differ from the header.
        """
        header = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        kinds = {"tokens": header["dtype"], "prompted": "uint8", "offsets": "int64"}
        counts = dict.fromkeys(("tokens", "prompted"), header["num_tokens"])
        counts["offsets"] = header["num_documents"] + 1
        arrays = {}
        for name, kind in kinds.items():
            path = folder / f"{name}.bin"
            expected = counts[name] * np.dtype(kind).itemsize
            if path.stat().st_size != expected:
                raise ArtifactCorrupt(f"{path} has {path.stat().st_size} bytes, its header says {expected}")
            arrays[name] = np.memmap(path, dtype=kind, mode="r") if counts[name] else np.empty(0, kind)
        shard = cls(tokenizer=header["tokenizer"], **arrays)
        if verify and shard.digest() != header["sha256"]:
            raise ArtifactCorrupt(f"{folder}: sha256 is {shard.digest()}, its header says {header['sha256']}")
        return shard


def pack(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase) -> TokenShard:
    """Tokenizes documents into one shard, in order.

    Raises:
        DataError: there is no document.
    """
    kind = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    tokens, prompted, lengths = [], [], [0]
    for encoded in encode_documents(tokenizer, documents):
        tokens.append(np.asarray(encoded.ids, kind))
        prompted.append(np.asarray(encoded.prompted, np.uint8))
        lengths.append(len(encoded.ids))
    if not tokens:
        raise DataError("there are no documents to pack; the split is empty")
    return TokenShard(
        tokens=np.concatenate(tokens),
        prompted=np.concatenate(prompted),
        offsets=np.cumsum(np.asarray(lengths, np.int64)),
        tokenizer=tokenizer_digest(tokenizer),
    )


def enough(documents: Sequence[Document], tokens: float) -> list[Document]:
    """The first documents that hold about ``tokens`` tokens, rather more than fewer; at least one."""
    found: list[Document] = []
    left = tokens * _BYTES_PER_TOKEN
    for document in documents:
        found.append(document)
        left -= document.num_bytes
        if left <= 0:
            break
    return found


def whole(shard: TokenShard) -> TokenShard:
    """The same text with nothing given: what the user says is predicted too.

    Ordinary text is kept as pretraining read it. With its questions masked a model forgets how questions go on, and
    that alone costs several percent in bits per byte.
    """
    return replace(shard, prompted=np.zeros(len(shard.prompted), np.uint8))


class Batches:
    """Packed batches of a mixture of shards.

    Row r of the run (``step · batch_size + place in the batch``) takes its domain from a schedule that meets the
    mixture exactly every 1,024 rows, and its window from a permutation of that domain's windows, anew for each epoch.
    """

    def __init__(
        self,
        shards: Mapping[str, TokenShard],
        mixture: Mapping[str, float],
        *,
        sequence_length: int,
        batch_size: int,
        seed: int,
        mask_prompts: bool = False,
        pad_id: int = 0,
    ) -> None:
        """Lays the windows; nothing is tokenized or copied.

        Args:
            shards: by domain.
            mixture: weight by domain, any scale; domains of weight 0 are left out.
            sequence_length: tokens in a window.
            batch_size: windows in a batch.
            seed: of the order.
            mask_prompts: no loss on what the user says.
            pad_id: token that fills a window's end.

        Raises:
            ValueError: a weight is negative or not finite, all are zero, a domain has no shard, or a size is not
                positive.
        """
        if sequence_length < 2 or batch_size < 1:
            raise ValueError(f"sequence_length {sequence_length} must be ≥ 2 and batch_size {batch_size} ≥ 1")
        if any(not np.isfinite(weight) or weight < 0 for weight in mixture.values()) or sum(mixture.values()) <= 0:
            raise ValueError(f"mixture weights must be finite, not negative, and not all zero: {dict(mixture)}")
        self.domains = sorted(domain for domain, weight in mixture.items() if weight > 0)
        if missing := [domain for domain in self.domains if domain not in shards]:
            raise ValueError(f"mixture names {missing}, but there are shards only for {sorted(shards)}")
        self.sequence_length, self.batch_size, self.seed = sequence_length, batch_size, seed
        self._mask_prompts, self._pad_id = mask_prompts, pad_id
        self._shards = {domain: shards[domain] for domain in self.domains}
        self._windows = {domain: lay_windows(self._shards[domain].offsets, sequence_length) for domain in self.domains}
        self._quota = _quotas([float(mixture[domain]) for domain in self.domains], _CYCLE)
        self._schedules: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch, padding included."""
        return self.sequence_length * self.batch_size

    @property
    def num_windows(self) -> dict[str, int]:
        """Windows of one epoch, by domain."""
        return {domain: len(windows.offsets) - 1 for domain, windows in self._windows.items()}

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of that step: a pure function of (seed, step).

        Returns:
            ``input_ids`` int64 [B, T]; ``labels`` int64 [B, T], unshifted as in transformers (position t holds the
            token at t, a causal model predicts it from positions before t), −100 on padding, on the first token of each
            document and, with ``mask_prompts``, on the user's turns; ``document_ids`` int64 [B, T], counted from 0 in
            each row, −1 on padding.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        shape = (self.batch_size, self.sequence_length)
        ids, labels = np.full(shape, self._pad_id, np.int64), np.full(shape, IGNORED, np.int64)
        documents = np.full(shape, -1, np.int64)
        for place in range(self.batch_size):
            domain, window = self.window_of(step * self.batch_size + place)
            self._fill(domain, window, ids[place], labels[place], documents[place])
        named = {"input_ids": ids, "labels": labels, "document_ids": documents}
        return {name: torch.from_numpy(array) for name, array in named.items()}

    def window_of(self, row: int) -> tuple[str, int]:
        """Domain and window of row ``row`` of the whole run."""
        cycle, place = divmod(row, _CYCLE)
        chosen, earlier = self._schedule(cycle)
        which = int(chosen[place])
        domain = self.domains[which]
        count = cycle * int(self._quota[which]) + int(earlier[place])
        epoch, index = divmod(count, len(self._windows[domain].offsets) - 1)
        key = _key(self.seed, domain, epoch)
        return domain, permuted(index, len(self._windows[domain].offsets) - 1, key)

    def _schedule(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        if cycle not in self._schedules:
            chosen = np.repeat(np.arange(len(self.domains)), self._quota)
            order = np.random.Generator(np.random.Philox(key=_key(self.seed, "mixture", cycle))).permutation(_CYCLE)
            chosen = chosen[order]
            earlier = np.zeros(_CYCLE, np.int64)
            for which in range(len(self.domains)):
                rows = np.flatnonzero(chosen == which)
                earlier[rows] = np.arange(len(rows))
            if len(self._schedules) > 8:
                self._schedules.clear()
            self._schedules[cycle] = (chosen, earlier)
        return self._schedules[cycle]

    def _fill(self, domain: str, window: int, ids: np.ndarray, labels: np.ndarray, documents: np.ndarray) -> None:
        windows, shard = self._windows[domain], self._shards[domain]
        at = 0
        for number, piece in enumerate(range(windows.offsets[window], windows.offsets[window + 1])):
            start, length = int(windows.starts[piece]), int(windows.lengths[piece])
            ids[at : at + length] = shard.tokens[start : start + length]
            labels[at + 1 : at + length] = ids[at + 1 : at + length]
            if self._mask_prompts:
                given = shard.prompted[start : start + length] == 1
                labels[at : at + length][given] = IGNORED
            documents[at : at + length] = number
            at += length


@dataclass(frozen=True)
class Windows:
    """Which pieces of a shard lie in which window.

    Attributes:
        starts: int64 [P], first token of each piece.
        lengths: int64 [P].
        offsets: int64 [W + 1], window w holds pieces ``offsets[w]:offsets[w + 1]``.
    """

    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray


def lay_windows(offsets: np.ndarray, sequence_length: int) -> Windows:
    """Lays documents into windows of ``sequence_length`` tokens by best fit, longest first.

    Args:
        offsets: int64 [D + 1], the documents of a shard.
        sequence_length: tokens in a window.
    """
    pieces = _pieces(np.asarray(offsets), sequence_length)
    order = np.lexsort((pieces[:, 0], -pieces[:, 1]))
    room: list[list[int]] = [[] for _ in range(sequence_length + 1)]  # open windows by what is left in them
    open_rooms = 0  # bit r is set when room[r] is not empty: the best fit is the lowest set bit ≥ length
    contents: list[list[int]] = []
    for piece in order:
        length = int(pieces[piece, 1])
        fitting = open_rooms >> length
        if fitting:
            left = length + (fitting & -fitting).bit_length() - 1
            window = room[left].pop()
            if not room[left]:
                open_rooms ^= 1 << left
        else:
            window, left = len(contents), sequence_length
            contents.append([])
        contents[window].append(int(piece))
        left -= length
        if left >= 2:
            room[left].append(window)
            open_rooms |= 1 << left
    flat = np.asarray([piece for window in contents for piece in window], np.int64)
    counts = np.asarray([0] + [len(window) for window in contents], np.int64)
    return Windows(pieces[flat, 0], pieces[flat, 1], np.cumsum(counts))


def _pieces(offsets: np.ndarray, sequence_length: int) -> np.ndarray:
    """[P, 2] (start, length): documents, the long ones cut into windows that share one token with the one before."""
    found: list[tuple[int, int]] = []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        while stop - start > sequence_length:
            found.append((start, sequence_length))
            start += sequence_length - 1
        if stop - start >= 2:  # a lone token predicts nothing
            found.append((start, stop - start))
    if not found:
        raise ValueError("no document has two tokens or more: there is nothing to predict")
    return np.asarray(found, np.int64)


def permuted(index: int, size: int, key: int) -> int:
    """The place of ``index`` in a permutation of ``range(size)`` chosen by ``key``: a bijection, computed without
    state.

    Args:
        index: 0 ≤ index < size.
        size: how many there are.
        key: 64 bits.

    Raises:
        ValueError: the index is outside.
    """
    if not 0 <= index < size:
        raise ValueError(f"index {index} is outside 0..{size - 1}")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:  # walk the cycle of the larger power of four until it comes back inside: fewer than 4 steps on average
        left, right = index >> half, index & mask
        for turn in range(6):
            left, right = right, left ^ (_mixed(right + (turn << 32) + key) & mask)
        index = (left << half) | right
        if index < size:
            return index


def _mixed(value: int) -> int:
    """splitmix64 (Steele, Lea and Flood 2014): 64 bits in, 64 well-mixed bits out."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def _key(seed: int, name: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()[:8], "little")


def _quotas(weights: list[float], total: int) -> np.ndarray:
    """Whole numbers proportional to ``weights`` with sum ``total`` (largest remainder), at least one each."""
    shares = np.asarray(weights) / sum(weights) * total
    quotas = np.floor(shares).astype(np.int64)
    for which in np.argsort(quotas - shares, kind="stable")[: total - int(quotas.sum())]:
        quotas[which] += 1
    for which in np.flatnonzero(quotas == 0):
        quotas[which], quotas[int(np.argmax(quotas))] = 1, quotas.max() - 1
    return quotas
