"""Bad input at the border: one clear sentence, exit code 2, and nothing written."""

import gzip
import json

import pytest

from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.readers import read_records, with_retries
from agent_forge.errors import DataError

SENTENCES = [
    f"The {w} went to the {p} because it was {a}."
    for w in ("fox", "bear", "owl")
    for p in ("hill", "mill", "inn")
    for a in ("late", "cold", "dark", "fun")
]


def refused(tmp_path, path, match, **options):
    target = tmp_path / "corpus"
    with pytest.raises(DataError, match=match) as caught:
        ingest([str(path)], target, seed=1, **options)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert not target.exists()
    return message


def test_missing_path(tmp_path):
    assert refused(tmp_path, tmp_path / "nowhere.txt", "does not exist")


def test_a_world_that_does_not_exist(tmp_path):
    assert refused(tmp_path, "poems=synthetic", "not 'poems'")


def test_nothing_given(tmp_path):
    with pytest.raises(DataError, match="no data was given"):
        ingest([], tmp_path / "corpus", seed=1)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_empty_corpus(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    assert refused(tmp_path, tmp_path / name, "too little text: 0 documents")


def test_empty_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path, tmp_path / "folder", "holds no .txt")


def test_one_short_line(tmp_path):
    (tmp_path / "a.txt").write_text("Just one line.\n")
    assert refused(tmp_path, tmp_path / "a.txt", "too little text.*1 too short dropped")


def test_one_long_line_works(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(f"{n} {line}" for n in range(6) for line in SENTENCES))
    ingest([str(tmp_path / "a.txt")], tmp_path / "corpus", seed=1)
    corpus = Corpus.open(tmp_path / "corpus")
    assert len(corpus.domains) == 3
    assert all(corpus.documents(domain, split) for domain in corpus.domains for split in ("train", "selection", "test"))


@pytest.mark.parametrize("ending", [".txt", ".jsonl"])
def test_not_utf8_names_file_and_byte(tmp_path, ending):
    path = tmp_path / f"latin{ending}"
    path.write_bytes(b'{"text": "ok"}\n"ros\xe9 wine"\n')
    assert "latin" in refused(tmp_path, path, "not UTF-8: byte 19 ")


def test_not_utf8_far_into_a_file(tmp_path):
    path = tmp_path / "far.txt"
    path.write_bytes("é".encode() * 600_000 + b"\xff rest")
    assert refused(tmp_path, path, "byte 1200000 ")


def test_characters_across_blocks_survive(tmp_path):
    path = tmp_path / "wide.txt"
    text = "x" + "é€😀" * 200_000
    path.write_text(text, encoding="utf-8")
    assert "".join(record["text"] for record in read_records(path)) == text


def test_binary_names_the_byte(tmp_path):
    path = tmp_path / "image.txt"
    path.write_bytes(b"PNG\x00\x00\x01")
    assert refused(tmp_path, path, "binary: byte 3 ")


def test_unknown_ending(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    assert refused(tmp_path, tmp_path / "a.pdf", "unknown kind of file")


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b"".join(json.dumps({"text": line}).encode() + b"\n" for line in SENTENCES))
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"not gzip at all")
    assert refused(tmp_path, path, "damaged gzip")


def test_broken_line_names_its_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n{"text": \n')
    assert refused(tmp_path, path, "line 3 is not JSON")


def test_a_line_that_is_no_object(tmp_path):
    (tmp_path / "a.jsonl").write_text("[1, 2]\n")
    assert refused(tmp_path, tmp_path / "a.jsonl", "line 1 is a list")


def test_fields_without_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"age": 3, "name": "x"}\n')
    assert refused(tmp_path, tmp_path / "a.jsonl", r"no text found in the fields \(age, name\)")


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"age": [1, 2]}), path)
    assert refused(tmp_path, path, r"fields \(age\)")
    path.write_bytes(b"PAR1 nonsense")
    assert refused(tmp_path, path, "not a readable parquet")
    lines = [f"{n}: {line} {line} {line}" for n, line in enumerate(SENTENCES)]
    parquet.write_table(pyarrow.table({"text": lines}), tmp_path / "good.parquet")
    (tmp_path / "good.parquet.gz").write_bytes(gzip.compress((tmp_path / "good.parquet").read_bytes()))
    for name in ("good.parquet", "good.parquet.gz"):
        assert [record["text"] for record in read_records(tmp_path / name)] == lines


@pytest.mark.parametrize("megabytes", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_huge_single_line(tmp_path, megabytes):
    """Up to 100 MB in one line: text is cut into pieces while it is read, a record is refused; memory stays bounded."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "huge.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for number in range(megabytes):
            file.write((f"number {number} " + "word and word again " * 52_000)[: 1 << 20].encode())
    facts = ingest([str(path)], tmp_path / "corpus", seed=1)
    assert facts["sources"]["huge.txt.gz"]["pieces"] > 100 * megabytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    with gzip.open(tmp_path / "huge.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"text": "')
        for _ in range(17):
            file.write(b"word " * (1 << 18))
    with pytest.raises(DataError, match="line 1 is longer than 16 MB"):
        list(read_records(tmp_path / "huge.jsonl.gz"))


@pytest.mark.parametrize("weight", ["nan", "0", "-1", "1e999"])
def test_impossible_weights(tmp_path, weight):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    if weight == "nan":
        with pytest.raises(DataError, match="does not exist"):
            ingest([f"{tmp_path / 'a.txt'}:{weight}"], tmp_path / "corpus", seed=1)
    else:
        assert refused(tmp_path, f"{tmp_path / 'a.txt'}:{weight}", "weight")


def test_a_hub_data_set_is_read_and_a_broken_stream_is_named(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")  # the outside world is replaced here, nothing of ours
    lines = [{"text": f"{n}: {line} {line}"} for n, line in enumerate(SENTENCES)]
    asked = []

    def load(name, split, streaming):
        asked.append((name, split, streaming))
        return lines

    monkeypatch.setattr(datasets, "load_dataset", load)
    facts = ingest(["tales=hub:someone/tales:2"], tmp_path / "hub", seed=1)
    assert asked == [("someone/tales", "train", True)]
    assert facts["sources"]["hub:someone/tales"]["records"] == len(lines)

    def broken(name, split, streaming):
        yield lines[0]
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    assert refused(tmp_path, "hub:someone/tales", r"broke off while it was read \(reset by peer\)")


def test_the_network_is_tried_again_and_then_named():
    waits: list[float] = []
    tries: list[int] = []

    def act():
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("no route")
        return "there"

    assert with_retries(act, what="the hub", sleep=waits.append) == "there"
    assert len(waits) == 2
    assert 0.25 <= waits[0] <= 0.75
    assert 0.5 <= waits[1] <= 1.5

    def never():
        raise ConnectionError("no route")

    with pytest.raises(DataError, match=r"the hub cannot be reached \(no route\)"):
        with_retries(never, what="the hub", tries=3, sleep=waits.append)
    assert len(waits) == 4
