"""Experts in training: the two losses by hand, states, skills and the whole course on a tiny model."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from agent_forge.agent.dispatch import BASE, Dispatcher
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.expert_vectors import EXPERTS, LARGEST, decompose, load_experts
from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.phases.edge.expert_course import train_experts
from agent_forge.phases.edge.expert_exam import BLEND, ORDINARY, identity_holds, tasks_of
from agent_forge.phases.edge.expert_lesson import ExpertSettings, Teacher
from agent_forge.phases.edge.expert_training import (
    Sample,
    VectorTraining,
    advantages,
    policy_loss,
    rate_at,
    supervised_loss,
)
from agent_forge.phases.edge.mixture import halves
from agent_forge.phases.edge.skills import Examples, gather, in_turn, ordinary, skill_names

TINY = ExpertSettings(
    rank=8, steps=8, batch_size=4, sequence_length=64, learning_rate=0.1, policy_steps=1, policy_questions=2,
    policy_samples=2, policy_learning_rate=0.01, answer_tokens=4, levels=(1,), train_documents=12,
    selection_documents=6, test_documents=4, keep_every=3,
)  # fmt: skip
SKILLS = ["drills/sum", "drills/reverse"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    ingest(["synthetic"], folder, seed=0, synthetic_bytes=60_000, levels=(1,))
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(corpus.training_texts(60_000), 300)


@pytest.fixture
def model():
    """A ternary Cognate that nobody has trained."""
    torch.manual_seed(0)
    config = CognateConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        gate_size=16, sliding_window=64, memory="off", zero_init_output=False, initializer_range=0.2,
    )  # fmt: skip
    made = CognateForCausalLM(config).eval()
    for _, linear in list(quantizable_linears(made)):
        TernaryLinear.from_linear(linear, Layout()).freeze()
    return made


def course(model, tokenizer, corpus, skills=SKILLS, settings=TINY, **options):
    return train_experts(
        model, tokenizer, corpus, skills=skills, settings=settings, seed=3, population=2, generations=1, **options
    )


def test_advantages_by_hand():
    found = advantages(torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    assert found.tolist() == [[1.0, -0.5, -0.5], [0.0, 0.0, 0.0]]
    assert float(found.sum()) == 0.0
    with pytest.raises(ValueError, match="samples ≥ 2"):
        advantages(torch.ones(3, 1))


def test_rate_rises_and_falls():
    rates = [rate_at(step, 40) for step in range(40)]
    assert rates[0] < rates[5] == max(rates)
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert 0 < rates[-1] < 0.05
    assert rate_at(0, 1) == 1.0


def test_reinforce_makes_the_rewarded_answer_likelier_and_the_leash_begins_at_zero(make_llama):
    model = make_llama().requires_grad_(False)
    basis = decompose(model, 16)
    training = VectorTraining(model, basis, learning_rate=0.02)
    before = training.copies()
    samples = [Sample([1, 5, 6], [7, 8, 2], 1.0), Sample([1, 5, 6], [9, 2], -1.0)]

    def likelihood(sample):
        ids = torch.tensor([[*sample.question, *sample.said]])
        with torch.no_grad(), training.applied():
            found = model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(sample.question)
        return sum(float(found[start - 1 + n, token]) for n, token in enumerate(sample.said))

    first = [likelihood(sample) for sample in samples]
    loss, divergence = policy_loss(training, before, samples, divergence_weight=1.0)
    assert divergence == pytest.approx(0.0, abs=1e-6)
    assert float(loss.detach()) == pytest.approx(-(first[0] - first[1]) / 5, rel=1e-4)
    for _ in range(6):
        loss, divergence = policy_loss(training, before, samples, divergence_weight=0.01)
        assert training.update(loss, 1.0)
    assert likelihood(samples[0]) > first[0]
    assert likelihood(samples[1]) < first[1]
    assert divergence > 0
    with pytest.raises(ValueError, match="no sample"):
        policy_loss(training, before, [], divergence_weight=0.0)


def test_a_loss_that_is_not_finite_moves_nothing_and_values_stay_in_range(make_llama):
    model = make_llama().requires_grad_(False)
    training = VectorTraining(model, decompose(model, 4), learning_rate=100.0)
    assert not training.update(training.flat.sum() * float("nan"), 1.0)
    assert bool((training.flat == 1).all())
    assert training.update(-training.flat.sum(), 1.0)
    assert bool((training.flat == LARGEST).all())


def test_a_state_goes_on_as_if_nothing_had_happened(make_llama):
    model = make_llama().requires_grad_(False)
    basis = decompose(model, 4)
    ids = torch.randint(5, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids}

    def steps(training, count):
        for _ in range(count):
            with training.applied():
                training.update(supervised_loss(model, batch), 1.0)
        return training

    whole = steps(VectorTraining(model, basis, learning_rate=0.05), 4)
    half = steps(VectorTraining(model, basis, learning_rate=0.05), 2)
    other = VectorTraining(model, basis, learning_rate=0.05)
    other.load_state(half.state())
    assert torch.equal(steps(other, 2).flat, whole.flat)
    fresh = VectorTraining(model, basis, learning_rate=0.05)
    fresh.load_state(VectorTraining(model, basis, learning_rate=0.05).state())
    assert torch.equal(steps(fresh, 1).flat, steps(VectorTraining(model, basis, learning_rate=0.05), 1).flat)


def test_supervised_loss_is_that_of_transformers(make_llama):
    model = make_llama()
    ids = torch.randint(5, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :3] = -100
    theirs = model(input_ids=ids, labels=labels).loss
    ours = supervised_loss(model, {"input_ids": ids, "labels": labels})
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_splits_of_a_skill_are_disjoint_and_the_same_every_time(corpus):
    counts = {"train": 20, "selection": 5, "test": 5}
    for name in ("drills/count", "thoughts/view", "corpus/facts"):
        one, again = (gather(name, corpus, seed=1, levels=(1, 2), counts=counts) for _ in range(2))
        assert one == again
        texts = [{d.text for d in part.documents} for part in (one.train, one.selection, one.test)]
        assert [len(part) for part in texts][1:] == [5, 5] or name.startswith("corpus/")
        assert texts[0] & texts[1] == texts[0] & texts[2] == texts[1] & texts[2] == set()
    drills = gather("drills/count", corpus, seed=1, levels=(1,), counts=counts)
    assert {task.kind for task in drills.train.tasks} == {"drills/count"}
    with pytest.raises(ValueError, match="unknown skill 'drills/chess'"):
        gather("drills/chess", corpus, seed=1, levels=(1,), counts=counts)
    assert "corpus/stories" in skill_names(corpus)
    everyday = ordinary(corpus, "test", 8, without=["corpus/stories"])
    assert "stories" not in {document.domain for document in everyday.documents}


def test_domains_come_in_turn_and_one_that_ends_is_passed_over(corpus):
    assert in_turn(["abc", "d", "ef"], 5) == ["a", "d", "e", "b", "f"]
    assert in_turn(["abc", "d", "ef"], 9) == ["a", "d", "e", "b", "f", "c"]
    assert in_turn([], 3) == []
    for split in ("train", "selection", "test"):
        domains = [d for d in corpus.domains if corpus.documents(d, split)]
        few = ordinary(corpus, split, len(domains))
        assert [document.domain for document in few.documents] == domains
        assert len(few.tasks) == len(domains)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_mixture_is_searched_and_judged_on_every_skill(corpus, number):
    """Whatever the number of skills: none may be only in the half that is searched with, or only in the judged one."""
    names = ["drills/sum", "thoughts/view", "drills/reverse", "drills/count"][:number]
    counts = {"train": 4, "selection": 8, "test": 6}
    skills = [gather(name, corpus, seed=1, levels=(1, 2), counts=counts) for name in names]
    everyday = {split: ordinary(corpus, split, 16) for split in counts}
    shown, held = tasks_of(skills, everyday)
    assert [len(group) for group in shown[BLEND]] == [8] * number
    for half in halves(shown[BLEND]):
        assert [sum(document in skill.selection.documents for document in half) for skill in skills] == [4] * number
    assert [sum(document in skill.test.documents for document in held[BLEND]) for skill in skills] == [6] * number
    for half in halves(shown[ORDINARY]):
        assert {document.domain for document in half} == set(corpus.domains)


def test_skills_of_all_domains_leave_nothing_to_dispatch_and_break_nothing(model, tokenizer, corpus, tmp_path):
    skills = [f"corpus/{domain}" for domain in corpus.domains]
    assert ordinary(corpus, "test", 8, without=skills) == Examples((), ())
    found = course(model, tokenizer, corpus, skills, settings=replace(TINY, steps=2))
    assert found.experts
    assert found.dispatcher is None
    assert "edge/dispatch_accuracy" not in found.measured
    assert {row["what"] for row in found.page["mixtures"]} == {BLEND}
    assert found.save(tmp_path) == tmp_path / EXPERTS
    assert Dispatcher.open(tmp_path) is None


def test_a_whole_course_helps_is_measured_and_leaves_the_weights_alone(model, tokenizer, corpus, tmp_path):
    stored = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    found = course(model, tokenizer, corpus, observe=lambda figures, step: seen.append((step, figures)))
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert sorted(each.name for each in found.experts) == sorted(SKILLS)
    measured = found.measured
    assert measured["edge/experts"] == measured["edge/experts_positive"] == 2.0
    assert measured["edge/expert_identity_exact"] == 1.0
    assert measured["edge/expert_nats_saved_fraction"] > 0.05
    assert 0 <= measured["edge/dispatch_accuracy"] <= 1
    assert measured["edge/mixture_worst_gain_fraction"] >= -1
    assert {row["how"] for row in found.page["mixtures"]} == {"mixture", "dispatch"}
    (blend, everyday) = [row for row in found.page["mixtures"] if row["how"] == "mixture"]
    assert measured["edge/mixture_gain_fraction"] == blend["gain_fraction"]
    assert measured["edge/mixtures_taken"] == blend["taken"] + everyday["taken"]
    # a design may name each alone, and a mixture that was taken
    assert found.options[:3] == [{}, *({each.name: 1.0} for each in found.experts)]
    page = {"mixtures": [blend | {"taken": True, "weights": dict.fromkeys(SKILLS, 0.5)},
                         everyday | {"taken": False, "weights": dict.fromkeys(SKILLS, 0.7)}]}  # fmt: skip
    assert replace(found, page=page).options[3:] == [dict.fromkeys(SKILLS, 0.5)]
    alone = {"mixtures": [blend | {"taken": True, "weights": {SKILLS[0]: 1.0, SKILLS[1]: 0.0}}]}
    assert len(replace(found, page=alone).options) == 3
    lesson = found.page["lessons"]["drills/sum"]
    assert lesson["warm_start"]["nats"] < lesson["base"]["nats"]
    assert lesson["reinforce"] is not None
    assert [step for step, figures in seen if "edge/expert_reward" in figures] == [8, 17]
    # written beside the weights, and used again
    assert found.save(tmp_path) == tmp_path / EXPERTS
    usable, skipped = load_experts(tmp_path, model)
    assert (len(usable), skipped) == (2, {})
    dispatcher = Dispatcher.open(tmp_path)
    assert dispatcher is not None
    assert set(dispatcher.classes) == {BASE, *SKILLS}


def test_a_course_that_was_stopped_goes_on_to_the_same_bytes(model, tokenizer, corpus, tmp_path):
    states = []
    whole = course(model, tokenizer, corpus, keep=lambda state, step: states.append(state))
    (tmp_path / "whole").mkdir()
    whole.save(tmp_path / "whole")
    assert len(states) > 4
    for number in range(len(states)):
        again = course(model, tokenizer, corpus, saved=states[number])
        place = tmp_path / str(number)
        place.mkdir()
        again.save(place)
        assert (place / EXPERTS).read_bytes() == (tmp_path / "whole" / EXPERTS).read_bytes()
        assert again.measured == whole.measured


def test_an_expert_that_does_not_help_is_dropped_with_the_reason(model, tokenizer, corpus, tmp_path):
    """A rate of next to nothing leaves every z at 1: no gain, so no expert, no file, and no invented figures."""
    settings = ExpertSettings(**{**vars(TINY), "learning_rate": 1e-9, "policy_learning_rate": 1e-9})
    found = course(model, tokenizer, corpus, settings=settings)
    assert found.experts == []
    assert found.dispatcher is None
    assert all("saves no nats" in why for why in found.skipped.values())
    assert found.skipped.keys() == set(SKILLS)
    assert found.measured["edge/experts"] == 0.0
    assert "edge/dispatch_accuracy" not in found.measured
    assert found.save(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_best_are_kept_where_there_are_too_many(model, tokenizer, corpus):
    found = course(model, tokenizer, corpus, most=1)
    assert len(found.experts) == 1
    (why,) = found.skipped.values()
    assert "1 others save a larger share" in why
    gains = {name: row["gain_fraction"] for name, row in found.page["lessons"].items()}
    assert found.experts[0].name == max(gains, key=gains.get)


def test_a_llama_of_transformers_learns_too(make_llama, tokenizer, corpus, tmp_path):
    model = make_llama()
    found = course(model, tokenizer, corpus, ["drills/sum"])
    assert found.measured["edge/experts_positive"] == 1.0
    assert identity_holds(model, found.basis, torch.tensor([[1, 2, 3]]))
    path = found.save(tmp_path)
    assert path is not None
    assert any(name.startswith("expert/0/") for name in load_file(path))


def test_what_the_model_can_do_already_gets_no_expert(model, tokenizer, corpus):
    seen = []
    found = course(model, tokenizer, corpus, head_room=0.0, observe=lambda figures, step: seen.append(step))
    assert found.experts == []
    assert all(why.startswith("no head-room: 0% of its questions") for why in found.skipped.values())
    assert seen == []  # nothing was trained


def test_a_vector_that_harms_is_drawn_back_before_it_is_given_up(make_llama, tokenizer, corpus):
    """Taught nonsense for answers, the expert is worse than an even guess: less of it is tried."""
    model = make_llama().requires_grad_(False)
    settings = ExpertSettings(**{**vars(TINY), "learning_rate": 0.5, "policy_steps": 0, "steps": 24})
    skill = gather("drills/reverse", corpus, seed=3, levels=(1,), counts={"train": 12, "selection": 6, "test": 4})
    nonsense = [Document.chat([("user", task.prompt), ("assistant", "ZZZZ" * 6)]) for task in skill.train.tasks]
    taught = replace(skill, train=Examples(tuple(nonsense), ()))
    basis = decompose(model, settings.rank)
    teacher = Teacher(model, tokenizer, basis, settings, seed=0, observe=lambda figures, step: None)
    base = teacher.standing(taught.selection)
    lesson = teacher.teach(taught, base=base, saved=None, keep=lambda state, step: None)
    assert lesson.warm.nats > base.nats
    assert lesson.strength < 1
    assert lesson.final.nats < lesson.warm.nats
    assert lesson.reinforced is None
    assert lesson.gain == base.nats - lesson.final.nats
