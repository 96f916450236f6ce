"""Files as records: ``.txt``, ``.jsonl``, ``.parquet``, each also ``.gz``, and data sets of the hub.

Reading is streamed, so that memory stays bounded whatever a file holds. What cannot be read raises
DataError with the file's name and the line or byte where it stops making sense.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from agent_forge.errors import DataError

Record: TypeAlias = dict[str, Any]
T = TypeVar("T")

KINDS = (".txt", ".jsonl", ".parquet")
LONGEST_LINE = 16 << 20
_BLOCK = 1 << 20
_END_OF_TEXT = "<|endoftext|>"


def kind_of(path: Path) -> str | None:
    """``.txt``, ``.jsonl`` or ``.parquet``, with ``.gz`` looked through; None for anything else."""
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind in KINDS if name.endswith(kind)), None)


def stem_of(path: Path) -> str:
    """The file's name without its endings."""
    name = path.name
    for ending in (".gz", *KINDS):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return name


def read_records(path: Path) -> Generator[Record, None, None]:
    """The records of one file, in order; a text file gives ``{"text": …}``.

    Raises:
        DataError: unknown ending, damaged compression, not UTF-8, binary, a broken or overlong line.
    """
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path}: unknown kind of file; {', '.join(KINDS)} are read, each also with .gz")
    if kind == ".parquet":
        yield from _parquet(path)
        return
    read = _text_records if kind == ".txt" else _json_records
    try:
        with _open(path) as stream:
            yield from read(path, stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _json_records(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    number, offset = 0, 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            raise DataError(
                f"{path} line {number} is longer than {LONGEST_LINE >> 20} MB; one record a line is expected"
            )
        text = _decoded(path, line, offset).strip()
        offset += len(line)
        if not text:
            continue
        try:
            record = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise DataError(f"{path} line {number} is not JSON: {reason}") from error
        if isinstance(record, str):
            record = {"text": record}
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number} is a {type(record).__name__}; an object or a string is expected")
        yield record


def _text_records(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    """Text up to each end-of-text mark; longer stretches in pieces of about 1 MB, cut where a line or word ends."""
    pending, text, offset = b"", "", 0
    while block := stream.read(_BLOCK):
        data = pending + block
        whole = _whole_characters(data)
        text += _decoded(path, data[:whole], offset)
        pending, offset = data[whole:], offset + whole
        *done, text = text.split(_END_OF_TEXT)
        yield from ({"text": piece} for piece in done)
        if len(text) > _BLOCK:
            cut = cut_before(text, _BLOCK)
            yield {"text": text[:cut]}
            text = text[cut:]
    if pending:
        _decoded(path, pending, offset)
    yield from ({"text": piece} for piece in text.split(_END_OF_TEXT))


def _decoded(path: Path, data: bytes, offset: int) -> str:
    if (zero := data.find(b"\0")) >= 0:
        raise DataError(f"{path} is binary: byte {offset + zero} is zero, text is expected")
    try:
        return data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {offset + error.start} cannot be decoded; save it as UTF-8"
        ) from error


def _whole_characters(data: bytes) -> int:
    """Bytes up to the last complete UTF-8 character, so that a block's end never splits one."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if needed > back else len(data)
        if byte < 0x80:
            return len(data)
    return len(data)


def cut_before(text: str, limit: int) -> int:
    """The last good place to cut ``text`` at or before ``limit`` characters: paragraph, line, sentence, word, else
    there.

    A place in the first half is not good: pieces stay of like size.
    """
    for mark in ("\n\n", "\n", ". ", " "):
        at = text.rfind(mark, limit // 2, limit)
        if at > 0:
            return at + len(mark)
    return limit


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading .parquet needs the extra `data` (pip install 'agent-forge[data]')") from error
    with tempfile.TemporaryDirectory() as folder:
        plain = path
        if path.name.lower().endswith(".gz"):
            plain = Path(folder) / "plain.parquet"
            try:
                with gzip.open(path, "rb") as packed, plain.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DataError(f"{path} is a damaged gzip file: {error}") from error
        try:
            with parquet.ParquetFile(plain) as file:
                for batch in file.iter_batches(batch_size=256):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error


def read_hub(name: str, split: str = "train") -> Generator[Record, None, None]:
    """Records of a data set of the hub, streamed.

    Raises:
        DataError: the extra is not installed, or the hub cannot be reached after five tries.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"hub:{name} needs the extra `data` (pip install 'agent-forge[data]')") from error
    opened = with_retries(
        lambda: datasets.load_dataset(name, split=split, streaming=True), what=f"the hub's data set {name}"
    )
    try:
        for record in opened:
            yield dict(record)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"hub:{name} broke off while it was read ({reason}); try again, or download it first"
        ) from error


def with_retries(
    act: Callable[[], T],
    *,
    what: str,
    tries: int = 5,
    first_wait_seconds: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Does ``act``, again after each failure of the network: waits double and vary by half, so that clients spread out.

    Raises:
        DataError: it failed ``tries`` times.
    """
    jitter = random.Random()  # waiting times need no seed: nothing that is saved depends on them
    for attempt in range(1, tries + 1):
        try:
            return act()
        except (OSError, RuntimeError, ValueError) as error:
            if attempt == tries:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise DataError(
                    f"{what} cannot be reached ({reason}); give a local file, or try again online"
                ) from error
            sleep(first_wait_seconds * 2 ** (attempt - 1) * jitter.uniform(0.5, 1.5))
    raise AssertionError("unreachable")
