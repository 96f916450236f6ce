"""Byte-level BPE, and how documents become token ids.

Digits are tokens of their own (numbers keep their place value, as in Llama's tokenizers; Singh and Strouse 2024,
arXiv:2402.14903, measure what it is worth). Every byte has a token, so nothing is out of vocabulary. The marks of a
conversation can only be written by this module: text that spells one out is tokenized as plain text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

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


def has_marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this tokenizer knows the marks of a conversation."""
    vocabulary = tokenizer.get_vocab()
    return all(mark in vocabulary for mark in (BOS, END, USER, ASSISTANT))


def mark_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int, int]:
    """Ids of bos, end, user and assistant of a tokenizer that has our marks."""
    vocabulary = tokenizer.get_vocab()
    return vocabulary[BOS], vocabulary[END], vocabulary[USER], vocabulary[ASSISTANT]


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
        encoded = tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False
        )
        return [list(ids) for ids in encoded["input_ids"]]
    return [list(tokenizer.encode(text, add_special_tokens=False)) for text in texts]


def encode_documents(tokenizer: PreTrainedTokenizerBase, documents: Iterable[Document]) -> Iterator[Encoded]:
    """Documents as tokens, in order.

    Plain text is ``<|bos|> text <|end|>``, a conversation ``<|bos|><|user|> q <|end|><|assistant|> a <|end|>``. A
    tokenizer without our marks gets a newline for each of them and its own eos at the end, so that
    the bytes that a document stands for (`Document.num_bytes`) are the same.
    """
    marked = has_marks(tokenizer)
    stream = iter(documents)
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
        for role, _ in document.turns:
            content = next(pieces)
            spoken = role == "assistant"
            ids += [assistant if spoken else user, *content, end]
            # the assistant's opening mark is written by the program, its words and its end by the model
            prompted += [True] + [not spoken] * (len(content) + 1)
        yield Encoded(ids, prompted)


def _encode_foreign(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> Iterator[Encoded]:
    # Pieces are cut where a speaker changes, so that the model's own words can be told from the given ones.
    cut = [_foreign_pieces(document, closed=tokenizer.eos_token_id is not None) for document in documents]
    encoded = iter(encode_texts(tokenizer, [text for pieces in cut for text, _ in pieces]))
    start = start_ids(tokenizer)
    for pieces in cut:
        ids, prompted = list(start), [False] * len(start)
        for _, given in pieces:
            piece = next(encoded)
            ids += piece
            prompted += [given] * len(piece)
        if tokenizer.eos_token_id is not None:
            ids.append(int(tokenizer.eos_token_id))
            prompted.append(False)
        yield Encoded(ids, prompted)


def _foreign_pieces(document: Document, closed: bool) -> list[tuple[str, bool]]:
    if not document.turns:
        return [(document.text if closed else document.text + "\n", False)]
    pieces: list[tuple[str, bool]] = []
    for place, (role, content) in enumerate(document.turns):
        last = place == len(document.turns) - 1
        spoken = role == "assistant"
        pieces.append(("\n", True) if spoken else ("\n" + content + "\n", True))
        if spoken:
            pieces.append((content if last and closed else content + "\n", False))
    if closed and pieces and document.turns[-1][0] != "assistant":
        pieces[-1] = (pieces[-1][0].removesuffix("\n"), True)
    return pieces
