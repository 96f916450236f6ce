"""The report is one file that loads nothing, hides nothing and invents nothing."""

import re
from html.parser import HTMLParser

import pytest

from agent_forge.errors import SessionNotFound
from agent_forge.pipeline.report import attachments, build_page, render, write_report
from agent_forge.pipeline.report_tables import edge_tables, ladder_table, thought_tables

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Checks that tags close in order, and gathers what a browser would load or show."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.links, self.tags, self.text = [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.loads += [given[name] for name in ("src", "srcset", "poster", "data") if name in given]
        if tag == "link":
            self.loads.append(given["href"])
        if tag == "a":
            self.links.append(given["href"])
        if "id" in given:
            self.ids.append(given["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def text(filled_home):
    return render(build_page(filled_home, "demo"))


def test_nothing_is_loaded_from_anywhere(text):
    page = Page(text)
    assert page.loads == ["data:,"]
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?:|url\(|@import|<script|javascript:", text)


def test_it_is_well_formed_with_targets_for_its_links(text):
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_all_text_is_escaped(text):
    assert "upon &lt;b&gt;" in text
    assert "It &lt;works&gt;." in text
    assert "memory is unused in &lt;reasoning&gt;" in text


def test_tables_and_charts_can_be_read_out(text):
    page = Page(text)
    assert sum(tag == "table" for tag, _ in page.tags) == sum(tag == "caption" for tag, _ in page.tags) > 5
    assert all("scope" in given for tag, given in page.tags if tag == "th")
    charts = [given for tag, given in page.tags if tag == "svg"]
    assert len(charts) > 5
    assert all(given["role"] == "img" and set(given["aria-labelledby"].split()) <= set(page.ids) for given in charts)


def test_every_section_of_a_complete_session_is_there(text):
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", text)
    assert headings == [
        "Phases", "Gates", "Size and quality", "Bits per byte by source and model", "Evolution", "Ternary weights",
        "The agent",
        "What the file is made of", "Curves", "Samples", "Warnings", "Corpus", "Lineage", "Setting",
    ]  # fmt: skip
    for shown in (
        "0.979",
        "≤ 2,000,000",
        "371,200",
        "not measured",
        "50 exact duplicate",
        "m_usage = 0.12",
        "torch 2.13.0",
    ):
        assert shown in text
    assert "embedding: uniform/3 → uniform/4" in text
    assert "1 × too large" in text
    assert "nobody" not in text, "who is no ancestor of the champion is not in its tree"


def test_a_form_far_above_the_others_is_told_and_not_drawn():
    rows = [
        {"name": name, "bytes": size, "bits_per_byte": bits}
        for name, size, bits in (("a", 9, 1.0), ("b", 5, 1.1), ("c", 1, 5.0))
    ]
    table = ladder_table(rows)
    assert table["off_the_chart"] == ["c"]
    assert str(table["svg"]).count("<circle") == 2
    assert [(row["number"], row["best"]) for row in table["rows"]] == [(1, True), (2, True), (3, True)]
    assert ladder_table([])["svg"] is None


def test_what_was_not_recorded_is_left_out(filled_home):
    filled_home.registry.create_session("bare", {"preset": "smoke", "phases": ["cognate"]})
    text = render(build_page(filled_home, "bare"))
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", text) == ["Phases", "Setting"]
    assert "<svg" not in text
    Page(text)


@pytest.mark.parametrize(
    ("session", "level", "said"),
    [
        (
            "demo",
            "passed",
            "All 3 blocking gates passed. Not within its bound, which only warns: evolution/diversity of evomerge.",
        ),
        ("stuck", "failed", "Gate test/bits_per_byte of cognate failed: it was 3 and must be < 2.5. It has learned."),
        ("broken", "failed", "Phase cognate ran out of memory: OutOfMemory: it used 9 GiB"),
    ],
)
def test_the_verdict_comes_first_and_says_why(filled_home, session, level, said):
    page = build_page(filled_home, session)
    assert page["verdict"] == {"level": level, "sentence": said}
    assert page["verdict"]["sentence"].split(":")[0] in render(page)


def test_a_session_that_was_stopped_says_how_to_go_on(filled_home):
    filled_home.registry.create_session("held", {"preset": "smoke"})
    filled_home.registry.set_session_status("held", "interrupted")
    verdict = build_page(filled_home, "held")["verdict"]
    assert verdict["level"] == "open"
    assert "agent-forge resume held" in verdict["sentence"]


def test_curves_of_a_reused_phase_are_those_of_the_session_that_ran_it(filled_home):
    titles = [chart["title"] for chart in build_page(filled_home, "stuck")["curves"]["quality"]]
    assert titles == ["loss", "valid/bits_per_byte"]


def test_lines_that_lie_on_each_other_are_drawn_once(filled_home):
    loss = build_page(filled_home, "demo")["curves"]["quality"][0]["svg"]
    assert "next_token = step_0" in loss
    assert loss.count('class="line s1"') == 2, "in the legend and in the chart"
    assert 'class="line s2"' not in loss


def test_attachments_of_several_phases_are_joined(filled_home):
    found = attachments(filled_home, "demo")
    assert [sample["prompt"] for sample in found["samples"]] == ["Once", "2 + 2 ="]
    assert {"corpus", "samples", "fitness", "family_tree", "ladder", "bitnet"} <= set(found)
    assert attachments(filled_home, "broken") == {}


def test_the_agent_is_shown_with_its_dialogues_and_verdicts(text):
    assert "Persona: You are Salt" in text
    assert "no question asked for it" in text
    assert "calculator(2 + 3)" in text


def test_thoughts_are_shown_beside_their_controls(filled_home):
    sample = {"question": "2 <b> 3?", "thought": "three is more", "answer": "yes", "right": True}
    measured = {"quietstar/accuracy_own": 0.75, "quietstar/accuracy_off": 0.25, "quietstar/hardest_tokens": 7.0}
    measured |= {"quietstar/hardest_nats_own": 1.234, "quietstar/hardest_nats_off": 4.321}
    page = build_page(filled_home, "demo")
    assert "Thinking" not in render(page)
    shown = render({**page, "thinking": thought_tables({"measured": measured, "samples": [sample]})})
    for said in (
        "its own thought",
        "no thought",
        "the hardest 7 of them",
        "1.23",
        "4.32",
        "three is more",
        "2 &lt;b&gt;",
    ):
        assert said in shown, said
    assert "filler of the same length" not in shown, "what was not measured has no row"
    assert Page(shown).open == []


def test_a_report_replaces_an_older_one_and_leaves_nothing_beside_it(filled_home, tmp_path):
    target = tmp_path / "deep" / "demo.html"
    target.parent.mkdir()
    target.write_text("old")
    write_report(filled_home, "demo", target)
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert [path.name for path in target.parent.iterdir()] == ["demo.html"]


def test_an_unknown_session_is_refused(filled_home, tmp_path):
    with pytest.raises(SessionNotFound):
        write_report(filled_home, "nowhere", tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] if len(colour) == 7 else [
        int(letter * 2, 16) / 255 for letter in colour[1:]
    ]  # fmt: skip
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_contrast_is_wcag_aa_in_light_and_dark(text, scheme):
    colours = dict(re.findall(r"--([\w-]+):(#[0-9a-f]{3,6})", re.findall(r":root\{(.*?)\}", text, re.DOTALL)[scheme]))
    for ink in ("ink", "quiet", "accent", "good", "bad", "warn"):
        for ground in ("card", "ground"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for kind in ("good", "bad", "warn", "still"):
        assert contrast(colours[kind], colours[f"{kind}-ground"]) >= 4.5, kind
        assert contrast(colours["ink"], colours[f"{kind}-ground"]) >= 4.5, kind
    for index in range(6):
        assert contrast(colours[f"c{index}"], colours["card"]) >= 3, index


def test_phase_7_shows_cuts_experts_and_design():
    trial = {
        "cuts": [{"kind": "channels", "units": {"a": [1, 2], "b": [3]}}],
        "measured": {"tools": 0.9},
        "undone": "x",
    }
    design = {
        "design": {"think": "on", "checks": {}, "format": 1},
        "measured": {"test_accuracy": 0.6, "test_tokens": 9.0, "habit_test_accuracy": 0.5, "habit_test_tokens": 8.0},
    }
    found = edge_tables({"pruning": {"trials": [trial], "skipped": {"heads": "none"}}, "design": design})
    assert found["trials"] == [{"cuts": "channels 3", "measured": {"tools": 0.9}, "undone": "x"}]
    assert found["skipped"] == {"heads": "none"}
    assert found["design"]["said"] == "think on"
    assert [row["name"] for row in found["design"]["rows"]] == ["chosen", "one greedy attempt"]
    routed = {"think": "on", "calculated": "no", "routes": {"sum 3": {"think": "on", "calculated": "yes", "format": 1}}}
    found = edge_tables({"design": {"design": routed}})
    assert found["design"]["said"] == "think on, calculated no; for sum 3: calculated yes"
    told = edge_tables({"measured": {"edge/bundle_right_answer": 0.9, "edge/model_right_answer": 0.95}})
    assert (told["bundle_right"], told["model_right"]) == (0.9, 0.95)
    assert edge_tables({})["bundle_right"] is None
    assert edge_tables({})["design"] == {"rows": [], "said": "", "skipped": ""}
