"""A wrong configuration is one sentence, before anything starts."""

from pathlib import Path

import pytest
import yaml

from agent_forge.config import PRESETS, ForgeConfig, build_config, load_preset, parse_config
from agent_forge.errors import ConfigError
from agent_forge.pipeline.gates import evaluate

PAGES = Path(__file__).resolve().parents[2] / "docs" / "phases"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_complete(name):
    """A preset names every field of every part: what it does not say, nobody can read."""
    values, config = load_preset(name), build_config(name).model_dump(mode="json")

    def missing(given, full, path=""):
        for key, value in full.items():
            if key not in given:
                yield f"{path}{key}"
            elif isinstance(value, dict) and isinstance(given[key], dict):
                yield from missing(given[key], value, f"{path}{key}.")

    assert list(missing(values, config)) == []
    assert values["preset"] == name


def test_a_preset_survives_its_own_dump():
    config = build_config("smoke")
    assert parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_overrides_reach_nested_keys():
    assert build_config("smoke", ["evomerge.generations=3"]).evomerge.generations == 3


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("evomerge.generation=3", "unknown configuration key 'evomerge.generation'; did you mean 'generations'?"),
        ("evomerg.generations=3", "unknown configuration key 'evomerg'; did you mean 'evomerge'?"),
        ("evomerge.generations=-3", "evomerge.generations = -3 cannot be"),
        ("evomerge.generations=many", "evomerge.generations = 'many' cannot be"),
        ("seed", "--set takes key=value"),
        ("seed.deep=1", "seed is a single value"),
    ],
)
def test_bad_overrides_are_one_sentence(override, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("?", r"\?").replace("'", ".")) as caught:
        build_config("smoke", [override])
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_unknown_preset_and_phase_suggest():
    with pytest.raises(ConfigError, match="did you mean 'smoke'"):
        build_config("smoky")
    with pytest.raises(ConfigError, match="did you mean 'evomerge'"):
        build_config("smoke", phases=["evomerg"])


def test_every_field_says_what_it_is():
    def undescribed(model, path=""):
        for name, field in model.model_fields.items():
            if not field.description:
                yield f"{path}{name}"
            if hasattr(field.annotation, "model_fields"):
                yield from undescribed(field.annotation, f"{path}{name}.")

    assert list(undescribed(ForgeConfig)) == []


@pytest.mark.parametrize("name", PRESETS)
def test_every_gate_reads_a_figure_that_the_page_of_its_phase_explains(name):
    for phase, gates in build_config(name).gates.items():
        page = (PAGES / f"{phase}.md").read_text(encoding="utf-8")
        for gate in gates:
            assert gate.metric.startswith(f"{phase}/")
            figure = gate.metric.removeprefix(f"{phase}/")
            assert f"`{figure}`" in page or f"`{gate.metric}`" in page, gate.metric


@pytest.mark.parametrize("name", PRESETS)
def test_a_search_that_runs_out_of_generations_fails_whatever_gate_asks_for_convergence(name):
    config = build_config(name)
    worst = {"evomerge/generations": float(config.evomerge.generations), "evomerge/converged": 0.0}
    asked = [gate for gate in config.gates["evomerge"] if gate.metric in worst]
    assert [gate.passed for gate in evaluate("evomerge", asked, worst)] == [False] * len(asked)
    assert asked or name == "smoke"


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "base25m"])
def test_a_gate_that_asks_for_less_than_the_reference_says_what_its_size_has_to_do_with_it(name):
    reference = {gate.metric: gate for gates in build_config("base25m").gates.values() for gate in gates}
    for gates in build_config(name).gates.values():
        for gate in gates:
            asked = reference.get(gate.metric)
            if asked is not None and (gate.bound, gate.severity) != (asked.bound, asked.severity):
                assert gate.why != asked.why, gate.metric
                assert "25M" in gate.why or "base25m" in gate.why or "parameters" in gate.why, gate.metric


def test_own_text_does_not_inherit_the_shares_of_the_preset():
    """Demo's mixture names domains of the synthetic world, which other text does not have."""
    assert build_config("demo").data.mixture
    assert not build_config("demo", sources=["notes.txt"]).data.mixture
    assert build_config("demo", ["data.mixture={notes: 1}"], sources=["notes.txt"]).data.mixture == {"notes": 1}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("edge.experts.skills=[thoughts/foo]", "there is no skill 'thoughts/foo'"),
        ("edge.experts.skills=[corpus/]", "there is no skill 'corpus/'"),
        ("edge.experts.selection_documents=3", "edge.experts.selection_documents = 3 cannot be"),
        ("edge.design.evaluations=9", "edge.design.evaluations = 9 cannot be.*at least 10 are needed"),
        ("edge.design.evaluations=1", "at least 10 are needed"),
    ],
)
def test_what_phase_7_could_only_refuse_hours_later_is_refused_at_once(override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_config("smoke", [override])


def test_the_least_evaluations_are_those_of_the_designs_by_hand():
    for evaluations in (0, 10):
        assert build_config("smoke", [f"edge.design.evaluations={evaluations}"]).edge.design.evaluations == evaluations
    plain = ["edge.design.routes=false", "edge.design.evaluations=7"]
    assert build_config("smoke", plain).edge.design.evaluations == 7
    with pytest.raises(ConfigError, match="at least 7"):
        build_config("smoke", [plain[0], "edge.design.evaluations=6"])
    skills = ["drills/sum", "thoughts/view", "corpus/stories"]
    assert build_config("smoke", [f"edge.experts.skills=[{', '.join(skills)}]"]).edge.experts.skills == tuple(skills)
