"""Byte-level BPE, and how documents become token ids.

Digits are tokens of their own (numbers keep their place value, as in Llama's tokenizers; Singh and Strouse 2024,
arXiv:2402.14903, measure what it is worth). Every byte has a token, so nothing is out of vocabulary. The marks of a
conversation, and those around a thought, can only be written by this module: text that spells one out is tokenized as
plain text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agent_forge.contract import END_THINK, THINK
from agent_forge.data.documents import Document

PAD, BOS, END, USER, ASSISTANT = "<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, BOS, END, USER, ASSISTANT)
SMALLEST_VOCABULARY = len(SPECIALS) + 256

CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}{% else %}{{ '<|user|>' }}{% endif %}"
    "{{ message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document as tokens.

    Attributes:
        ids: token ids, opening and closing marks included.
        prompted: for each token, whether it was given to the model rather than written by it (the user's turns
            and the marks around them); all False for plain text.
    """

    ids: list[int]
    prompted: list[bool]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains the house tokenizer. Equal texts in equal order give an equal tokenizer.

    Args:
        texts: what to learn merges from.
        vocab_size: number of tokens wanted, marks and bytes included; the result has fewer if the texts do not
            hold enough different pairs.

    Raises:
        ValueError: ``vocab_size`` cannot hold the 5 marks and the 256 bytes.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"vocab_size {vocab_size} is below {SMALLEST_VOCABULARY} (5 marks and 256 bytes)")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # a run of blank space longer than 16 would become one rare token per length
            pre_tokenizers.Split(Regex(r"\s{16}"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, SPECIALS.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=int(1e9),
    )


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of what the tokenizer does, whatever folder it was loaded from."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.pop("padding", None), state.pop("truncation", None)  # set by calls, not part of the tokenizer
    else:
        state = tokenizer.get_vocab()
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of every special or added token: their rows must survive quantization and compression bit for bit."""
    return {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}


def _known_ids(tokenizer: PreTrainedTokenizerBase, *names: str) -> list[int | None]:
    """The id of each token, None for one that it does not have; ``get_vocab`` would copy the whole vocabulary."""
    found = [tokenizer.convert_tokens_to_ids(name) for name in names]
    # an unknown name may come back as the id of the unknown token
    return [
        number if isinstance(number, int) and tokenizer.convert_ids_to_tokens(number) == name else None
        for number, name in zip(found, names, strict=True)
    ]


def has_marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this tokenizer knows the marks of a conversation."""
    return None not in _known_ids(tokenizer, BOS, END, USER, ASSISTANT)


def mark_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int, int]:
    """Ids of bos, end, user and assistant of a tokenizer that has our marks."""
    bos, end, user, assistant = _known_ids(tokenizer, BOS, END, USER, ASSISTANT)
    if bos is None or end is None or user is None or assistant is None:
        raise ValueError("the tokenizer does not know the marks of a conversation")
    return bos, end, user, assistant


def has_thoughts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this tokenizer has the tokens around a thought, our marks or not."""
    return None not in _known_ids(tokenizer, THINK, END_THINK)


def thought_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Ids of ``<think>`` and ``</think>``.

    Raises:
        ValueError: the tokenizer has no such tokens.
    """
    opening, closing = _known_ids(tokenizer, THINK, END_THINK)
    if opening is None or closing is None:
        raise ValueError(f"the tokenizer has no {THINK} and {END_THINK}; phase 3 (quietstar) adds them")
    return opening, closing


def add_thoughts(tokenizer: PreTrainedTokenizerBase) -> int:
    """Gives ``<think>`` and ``</think>`` to a tokenizer, behind its last token.

    Returns:
        How many tokens are new: 2, or 0 if it has them already.
    """
    if has_thoughts(tokenizer):
        return 0
    return int(
        tokenizer.add_special_tokens({"extra_special_tokens": [THINK, END_THINK]}, replace_extra_special_tokens=False)
    )


def split_thought(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """What a turn thinks and what it says, marks left out.

    What stands behind the last ``</think>`` is said; a thought that was never closed says nothing, and one that was
    opened for the model (its ``<think>`` stands in the prompt) needs no opening here.
    """
    opening, closing = map(
        tokenizer.convert_tokens_to_ids, (THINK, END_THINK)
    )  # not the whole vocabulary: called per turn
    ids = list(ids)
    if opening is None or opening == closing:  # both unknown
        return [], ids
    start = len(ids) - ids[::-1].index(closing) if closing in ids else 0
    if opening in ids[start:]:  # never closed
        start = len(ids)
    thought, said = ids[:start], ids[start:]
    return [token for token in thought if token not in (opening, closing)], said


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that opens every document: bos, else eos, else none. It is given, never predicted."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    return []


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts: no marks added, and marks spelled out in a text are plain text."""
    if not texts:
        return []
    if tokenizer.is_fast:
        # the backend itself: transformers' own call keeps offsets and masks of every text, for a third of the time
        backend = tokenizer.backend_tokenizer
        spelled_out = backend.encode_special_tokens
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        try:
            return [encoded.ids for encoded in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        finally:
            backend.encode_special_tokens = spelled_out
    return [list(tokenizer.encode(text, add_special_tokens=False)) for text in texts]


def encode_documents(tokenizer: PreTrainedTokenizerBase, documents: Iterable[Document]) -> Iterator[Encoded]:
    """Documents as tokens, in order.

    Plain text is ``<|bos|> text <|end|>``, a conversation ``<|bos|><|user|> q <|end|><|assistant|> a <|end|>``. A
    tokenizer without our marks gets a newline for each of them and its own eos at the end, so that
    the bytes that a document stands for (`Document.num_bytes`) are the same.

    A thought before an answer is ``<think> thought </think>`` in front of the answer's words, all of it the model's
    own. For a tokenizer without thought tokens thoughts are left out (`Document.without_thoughts`).
    """
    marked = has_marks(tokenizer)
    stream = iter(documents) if has_thoughts(tokenizer) else (document.without_thoughts() for document in documents)
    while batch := list(islice(stream, 1024)):
        if marked:
            yield from _encode_marked(tokenizer, batch)
        else:
            yield from _encode_foreign(tokenizer, batch)


def _encode_marked(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> Iterator[Encoded]:
    texts = [content for doc in documents for content in ([c for _, c in doc.turns] if doc.turns else [doc.text])]
    pieces = iter(encode_texts(tokenizer, texts))
    bos, end, user, assistant = mark_ids(tokenizer)
    for document in documents:
        ids, prompted = [bos], [False]
        if not document.turns:
            ids += next(pieces)
            ids.append(end)
            yield Encoded(ids, [False] * len(ids))
            continue
        thought: list[int] | None = None
        for role, _ in document.turns:
            content = next(pieces)
            if role == "thought":
                thought = content
                continue
            spoken = role == "assistant"
            if spoken and thought is not None:
                opening, closing = thought_ids(tokenizer)
                content = [opening, *thought, closing, *content]
            thought = None
            ids += [assistant if spoken else user, *content, end]
            # the assistant's opening mark is written by the program, its words and its end by the model
            prompted += [True] + [not spoken] * (len(content) + 1)
        yield Encoded(ids, prompted)


def _encode_foreign(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> Iterator[Encoded]:
    # Pieces are cut where a speaker changes, so that the model's own words can be told from the given ones.
    closed = tokenizer.eos_token_id is not None
    thinks = thought_ids(tokenizer) if has_thoughts(tokenizer) else None
    cut = [_foreign_pieces(document, closed, thinks) for document in documents]
    encoded = iter(encode_texts(tokenizer, [text for pieces in cut for text, _ in pieces if isinstance(text, str)]))
    start = start_ids(tokenizer)
    for pieces in cut:
        ids, prompted = list(start), [False] * len(start)
        for text, given in pieces:
            piece = next(encoded) if isinstance(text, str) else [text]
            ids += piece
            prompted += [given] * len(piece)
        if tokenizer.eos_token_id is not None:
            ids.append(int(tokenizer.eos_token_id))
            prompted.append(False)
        yield Encoded(ids, prompted)


def _foreign_pieces(document: Document, closed: bool, thinks: tuple[int, int] | None) -> list[tuple[str | int, bool]]:
    """(text or token id, whether it is given) of each piece."""
    if not document.turns:
        return [(document.text if closed else document.text + "\n", False)]
    pieces: list[tuple[str | int, bool]] = []
    thought: str | None = None
    for place, (role, content) in enumerate(document.turns):
        if role == "thought":
            thought = content
            continue
        last = place == len(document.turns) - 1
        spoken = role == "assistant"
        pieces.append(("\n", True) if spoken else ("\n" + content + "\n", True))
        if spoken:
            if thought is not None and thinks is not None:
                pieces += [(thinks[0], False), (thought, False), (thinks[1], False)]
            pieces.append((content if last and closed else content + "\n", False))
        thought = None
    text, _ = pieces[-1] if pieces else ("", True)
    if closed and isinstance(text, str) and document.turns[-1][0] != "assistant":
        pieces[-1:] = [(text.removesuffix("\n"), True)]
    return pieces
