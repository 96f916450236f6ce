"""Sources become a corpus: split by content, the same bytes again, weights and specialties as asked."""

import gzip
import json

import pytest

from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.documents import Document, Task, content_key, split_of
from agent_forge.data.filters import FilterSettings
from agent_forge.data.sources import Source, expand
from agent_forge.data.specialties import SPECIALTIES
from agent_forge.errors import DataError


def story(number: int) -> str:
    words = [
        "the",
        "a",
        "fox",
        "bear",
        "hill",
        "river",
        "ran",
        "slept",
        "sang",
        "over",
        "under",
        "near",
        "and",
        "then",
        "bell",
        "hat",
        "stone",
    ]
    picked = [words[(number * 31 + place * place * 7 + place * number) % len(words)] for place in range(40)]
    return f"Story {number}. {' '.join(picked)}."


def write_lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def digests(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def stories(tmp_path):
    return write_lines(tmp_path / "stories.jsonl.gz", [{"text": story(n)} for n in range(300)])


def test_synthetic_corpus(tmp_path):
    facts = ingest(["synthetic"], tmp_path / "c", seed=1, synthetic_bytes=100_000)
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.domains == ["arithmetic", "code", "facts", "stories", "tools"]
    assert sum(corpus.mixture().values()) == pytest.approx(1, abs=1e-4)
    assert 100_000 <= sum(facts["domains"][domain]["train"]["bytes"] for domain in corpus.domains) < 125_000
    specialties = corpus.specialties()
    assert set(specialties) == set(SPECIALTIES)
    assert all(sum(own.values()) == pytest.approx(1, abs=1e-4) for own in specialties.values())
    for domain in corpus.domains:
        splits = {split: {d.key() for d in corpus.documents(domain, split)} for split in ("train", "selection", "test")}
        assert not splits["train"] & splits["test"]
        assert not splits["train"] & splits["selection"]
        assert not splits["selection"] & splits["test"]
        assert splits["test"]
        assert corpus.tasks(domain, "test")


def test_same_input_same_bytes(tmp_path, stories):
    for name in ("one", "two"):
        ingest(["synthetic", f"tales={stories}"], tmp_path / name, seed=3, synthetic_bytes=30_000)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_order_and_place_of_the_files_do_not_matter(tmp_path):
    rows = [{"text": story(n)} for n in range(120)]
    (tmp_path / "x").mkdir()
    write_lines(tmp_path / "a.jsonl", rows)
    write_lines(tmp_path / "x" / "a.jsonl", rows[::-1])
    ingest([str(tmp_path / "a.jsonl")], tmp_path / "one", seed=1, filters=FilterSettings(near_duplicates=False))
    ingest([str(tmp_path / "x" / "a.jsonl")], tmp_path / "two", seed=2, filters=FilterSettings(near_duplicates=False))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert str(tmp_path) not in (tmp_path / "one" / "corpus.json").read_text()


def test_one_source_becomes_three_domains(tmp_path, stories):
    ingest([f"tales={stories}"], tmp_path / "c", seed=1)
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.domains == sorted(f"tales-{name}" for name in SPECIALTIES)
    assert all(list(own) == [f"tales-{name}"] for name, own in corpus.specialties().items())


def test_weights_set_the_mixture(tmp_path, stories):
    facts = write_lines(tmp_path / "facts.jsonl", [{"title": f"Town {n}", "text": story(1000 + n)} for n in range(50)])
    sums = write_lines(
        tmp_path / "gsm8k_part.jsonl",
        [
            {
                "question": f"What is {n} + {n}? " + story(n)[:60],
                "answer": f"{n} + {n} = <<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}",
                "final": str(2 * n),
            }
            for n in range(50)
        ],
    )
    ingest([f"tales={stories}:50", f"{facts}:30", f"{sums}:20"], tmp_path / "c", seed=1)
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.mixture() == {"arithmetic": 0.2, "facts": 0.3, "tales": 0.5}
    task = corpus.tasks("arithmetic", "test")[0]
    document = next(d for d in corpus.documents("arithmetic", "test") if d.turns[0][1] == task.prompt)
    assert document.turns[1][1].endswith(f"The answer is {task.answer}.")
    assert "<<" not in document.text
    assert corpus.specialties() == {
        "reasoning": {"arithmetic": 1.0}, "memory_integration": {"facts": 1.0}, "adaptive_computation": {"tales": 1.0},
    }  # fmt: skip


def test_text_without_tools_gets_some_conversations_with_tools(tmp_path, stories):
    """Phase 6 needs them; the user's own text keeps its three parts, in their proportions."""
    ingest([f"tales={stories}"], tmp_path / "plain", seed=1)
    ingest([f"tales={stories}"], tmp_path / "c", seed=1, synthetic_bytes=200_000, tool_share=0.25)
    plain, corpus = Corpus.open(tmp_path / "plain"), Corpus.open(tmp_path / "c")
    assert corpus.domains == [*plain.domains, "tools"]
    for domain, share in plain.mixture().items():
        assert corpus.mixture()[domain] == pytest.approx(0.75 * share, abs=1e-5)
        assert list(corpus.documents(domain, "test")) == list(plain.documents(domain, "test"))
    assert corpus.mixture()["tools"] == 0.25
    trained = sum(document.num_bytes for document in corpus.documents("tools", "train"))
    assert 50_000 <= trained < 60_000
    assert {"train", "selection", "test"} <= set(corpus.facts["domains"]["tools"])
    assert corpus.world(7) == 1


@pytest.mark.parametrize("own", [["synthetic"], ["tools=synthetic"], ["tales={}", "tools=synthetic:20"]])
def test_who_has_conversations_with_tools_gets_no_more(tmp_path, stories, own):
    sources = [each.format(stories) for each in own]
    for folder, share in (("with", 0.25), ("without", 0.0)):
        ingest(sources, tmp_path / folder, seed=1, synthetic_bytes=60_000, tool_share=share)
    assert digests(tmp_path / "with") == digests(tmp_path / "without")


def test_what_is_added_hides_no_report(tmp_path):
    ingest(["code=synthetic"], tmp_path / "c", seed=1, synthetic_bytes=60_000, tool_share=0.25)
    reports = Corpus.open(tmp_path / "c").facts["sources"]
    assert set(reports) == {"synthetic", "synthetic (tools)"}
    assert reports["synthetic"]["kept_bytes"] > reports["synthetic (tools)"]["kept_bytes"] > 0


def test_a_larger_share_of_ones_own_is_kept(tmp_path, stories):
    calls = write_lines(tmp_path / "toolformer.jsonl", [{"text": story(2000 + n)} for n in range(60)])
    ingest([f"tales={stories}:20", f"{calls}:80"], tmp_path / "c", seed=1, synthetic_bytes=60_000, tool_share=0.25)
    assert sum(share for name, share in Corpus.open(tmp_path / "c").mixture().items() if "tools" in name) >= 0.25


def test_held_out_text_may_not_be_named_like_what_is_added(tmp_path, stories):
    with pytest.raises(DataError, match="write e.g. tools-eval=PATH"):
        ingest([str(stories)], tmp_path / "c", seed=1, eval_data=[f"tools={stories}"], tool_share=0.25)


def test_folder_with_declared_weights(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("one_a", "one_b", "two"):
        write_lines(folder / f"{name}.jsonl", [{"text": f"{name} {story(n)}"} for n in range(40)])
    (folder / "weights.yaml").write_text("first: {files: ['one_*'], weight: 3}\ntwo: 1\n")
    assert [(s.domain, s.weight) for s in expand(str(folder))] == [("first", 1.5), ("first", 1.5), ("two", 1.0)]


def test_held_out_data_is_a_test_set_and_is_never_trained_on(tmp_path, stories):
    held = write_lines(tmp_path / "held.jsonl", [{"text": story(n)} for n in range(10)])
    facts = ingest([f"tales={stories}"], tmp_path / "c", seed=1, eval_data=[str(held)])
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.held_out == ["held"]
    assert "held" not in corpus.domains
    assert len(corpus.documents("held", "test")) == 10
    keys = {document.key() for document in corpus.documents("held", "test")}
    for domain in corpus.domains:
        assert not keys & {document.key() for document in corpus.documents(domain, "train")}
    assert facts["sources"]["stories.jsonl.gz"]["dropped"]["held out"] == 10


def test_what_was_dropped_is_reported_with_examples(tmp_path):
    rows = [{"text": story(n)} for n in range(150)]
    rows += [{"text": story(5)}, {"text": "short"}, {"text": "  "}, {"text": "\x01\x02\x03" * 40}]
    rows += [{"text": "qzx" * 60 + " " + "".join(chr(33 + (n * 37) % 90) for n in range(300))}]
    source = write_lines(tmp_path / "mixed.jsonl", rows)
    facts = ingest([str(source)], tmp_path / "c", seed=1)
    report = facts["sources"]["mixed.jsonl"]
    assert report["records"] == 155
    assert report["dropped"] == {"empty": 1, "exact duplicate": 1, "low quality": 1, "too short": 1, "unreadable": 1}
    assert report["examples"]["too short"] == ["short"]
    assert report["kept"] == 150


def test_split_of_is_decided_by_content_alone():
    keys = [content_key(story(n)) for n in range(3000)]
    shares = {split: sum(split_of(key) == split for key in keys) / 3000 for split in ("train", "selection", "test")}
    assert shares["test"] == pytest.approx(0.02, abs=0.01)
    assert shares["selection"] == pytest.approx(0.02, abs=0.01)
    assert content_key("The  Fox\nran") == content_key("the fox ran ")


def test_documents_and_tasks_survive_json():
    chat = Document.chat((("user", "a"), ("assistant", "b")), "d", 3)
    task = Task("p", "a", "k", 2, "d", ("a", "b"))
    assert Document.from_json(json.loads(json.dumps(chat.to_json())), "d") == chat
    assert Document.from_json(Document("x", "d").to_json(), "d") == Document("x", "d")
    assert Task.from_json(json.loads(json.dumps(task.to_json())), "d") == task
    assert chat.num_bytes == len("a") + len("b") + 4


@pytest.mark.parametrize("path", ["nothing", "hub:"])
def test_a_folder_that_is_no_corpus(tmp_path, path):
    with pytest.raises(DataError, match=r"corpus\.json"):
        Corpus.open(tmp_path / path)


def test_a_corpus_needs_a_folder_of_its_own(tmp_path, stories):
    with pytest.raises(DataError, match="not empty"):
        ingest([Source(stories, "tales")], tmp_path, seed=1)
