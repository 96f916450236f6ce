"""A tokenizer in few bytes: its files as one JSON, without what the rest determines, through zstd.

A BPE vocabulary of 8,192 is 60% of a small agent's tokenizer, and for a trained BPE it follows from the list of
merges: special tokens, then the alphabet, then one token per merge in order. Where that is exactly so (checked
entry by entry), only the alphabet is stored.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.contract import canonical_json
from agent_forge.phases.compression.plain import compress_bytes, decompress_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RUN_DEPENDENT = ("name_or_path", "local_files_only", "is_local")  # differ between machines, never used


def pack_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """All files of the tokenizer.

    Raises:
        ValueError: a tokenizer with a file that is not text.
    """
    files: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                files[path.relative_to(folder).as_posix()] = (
                    _shorten(json.loads(text)) if path.suffix == ".json" else text
                )
    return compress_bytes(canonical_json(files).encode())


def unpack_tokenizer(blob: bytes) -> PreTrainedTokenizerBase:
    """Inverse of `pack_tokenizer`.

    Raises:
        ValueError: bytes that are no tokenizer.
    """
    from transformers import AutoTokenizer

    files = json.loads(decompress_bytes(blob))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / Path(name).name
            text = content if isinstance(content, str) else json.dumps(_lengthen(content), ensure_ascii=False)
            path.write_text(text, encoding="utf-8")
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    tokenizer.name_or_path = ""
    return tokenizer


def _shorten(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    content = {key: value for key, value in content.items() if key not in _RUN_DEPENDENT}
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return content
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    alphabet = tokens[: len(tokens) - len(model["merges"])]
    short = {key: value for key, value in model.items() if key != "vocab"} | {"alphabet": alphabet}
    return content | {"model": short} if _vocabulary(short) == model["vocab"] else content


def _lengthen(content: Any) -> Any:
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or "alphabet" not in model:
        return content
    full = {key: value for key, value in model.items() if key != "alphabet"} | {"vocab": _vocabulary(model)}
    return content | {"model": full}


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    """token → id from the alphabet and the merges in order."""
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    tokens = [*model["alphabet"], *("".join(pair) for pair in pairs)]
    return {token: index for index, token in enumerate(tokens)}
