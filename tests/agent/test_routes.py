"""Routes: kinds of question are told apart by one reading and answered differently; what does not fit is refused."""

import pytest
import torch
from safetensors.torch import save_file

from agent_forge.agent.belongings import BELONGINGS, ROUTES
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE, Dispatcher, fit_dispatcher, question_features
from agent_forge.agent.interpreter import answer
from agent_forge.agent.routes import first_pass, open_first_pass
from agent_forge.errors import HandoffError

SUMS = ["What is 17 + 25?", "What is 3 + 44?", "What is 8 + 9?"]
SAYINGS = ["Say fox.", "Say owl.", "Say hen."]
OTHERS = ["Who taught Ada Vane, and where does that person live?", "Greet me."]
SILENT_SUMS = AgentDesign(routes={"sum": AgentDesign(tools="never")})


@pytest.fixture(scope="module")
def dispatcher(agent, tokenizer):
    asked = {BASE: OTHERS, "sum": SUMS, "saying": SAYINGS}
    return fit_dispatcher({name: question_features(agent, tokenizer, each) for name, each in asked.items()})


def said(found):
    """Without the seconds that calls took."""
    return [([(turn.kind, turn.text) for turn in each.transcript.turns], each.num_tokens) for each in found]


def test_each_kind_is_answered_by_its_own_row(agent, tokenizer, toolbox, dispatcher):
    asked = [SUMS[0], SAYINGS[0], [{"role": "user", "content": SUMS[0]}], OTHERS[1]]
    read = []
    recognise = first_pass(agent, tokenizer, dispatcher)

    def counted(questions):
        read.append(list(questions))
        return recognise(questions)

    found = answer(agent, tokenizer, toolbox, SILENT_SUMS, asked, first_pass=counted)
    plain = answer(agent, tokenizer, toolbox, AgentDesign(), asked)
    assert [found[n].transcript.answer for n in (0, 2)] == ["calculator(17 + 25)"] * 2  # words, not a call
    assert plain[0].transcript.answer == "It is 42."
    assert said([found[1], found[3]]) == said([plain[1], plain[3]])
    assert read == [[SUMS[0], SAYINGS[0], SUMS[0], OTHERS[1]]]  # once, all together
    alone = answer(agent, tokenizer, toolbox, AgentDesign(tools="never"), [SUMS[0]])[0]
    assert found[0].num_tokens == alone.num_tokens  # what is decoded, nothing for the reading


def test_a_kind_without_a_route_gets_the_outer_row(agent, tokenizer, toolbox):
    outer = AgentDesign(tools="never", routes={"never asked": AgentDesign(think="on")})
    found = answer(agent, tokenizer, toolbox, outer, SUMS, first_pass=lambda asked: [BASE, "unheard of", "sum"])
    assert said(found) == said(answer(agent, tokenizer, toolbox, AgentDesign(tools="never"), SUMS))
    assert answer(agent, tokenizer, toolbox, outer, [], first_pass=lambda asked: []) == []


def test_routes_without_a_first_pass_are_refused(agent, tokenizer, toolbox):
    with pytest.raises(ValueError, match="tells kinds of question apart"):
        answer(agent, tokenizer, toolbox, SILENT_SUMS, SUMS)
    same = AgentDesign(routes={"sum": AgentDesign(temperature=0.9)})  # one attempt each, whatever the temperature
    plain = answer(agent, tokenizer, toolbox, AgentDesign(), SUMS)
    assert said(answer(agent, tokenizer, toolbox, same, SUMS)) == said(plain)


def test_experts_of_each_route_are_put_on_for_it_alone(agent, tokenizer, toolbox, dispatcher):
    class Equipped:
        def __init__(self, model, design):
            worn.append((dict(design.experts), design.routes))
            self.model = model

        def __enter__(self):
            return self.model

        def __exit__(self, *error):
            return None

    worn = []
    design = AgentDesign(routes={"sum": AgentDesign(experts={"sums": 1.0})})
    recognise = first_pass(agent, tokenizer, dispatcher)
    answer(agent, tokenizer, toolbox, design, [*SUMS, *SAYINGS], first_pass=recognise, equip=Equipped)
    assert sorted(worn, key=str) == [({"sums": 1.0}, ()), ({}, ())]


def test_it_is_kept_beside_the_weights(agent, tokenizer, dispatcher, tmp_path):
    assert ROUTES in BELONGINGS
    assert open_first_pass(tmp_path, agent, tokenizer, AgentDesign()) is None
    before = dispatcher.save(tmp_path).read_bytes()
    assert dispatcher.save(tmp_path).read_bytes() == before
    recognise = open_first_pass(tmp_path, agent, tokenizer, SILENT_SUMS)
    assert recognise([*SUMS, *SAYINGS, OTHERS[0]]) == ["sum"] * 3 + ["saying"] * 3 + [BASE]
    assert recognise([]) == []
    assert Dispatcher.open(tmp_path) is None  # that of the experts is another file


def spoilt(dispatcher, harm):
    """The bytes' tensors with a fault."""
    tensors = dispatcher.to_tensors()
    if harm == "values":
        tensors["dispatch/weight"][0, 0] = float("nan")
    elif harm == "classes":
        tensors["dispatch/classes"] = torch.tensor(list(b"sum\nsum\nsum"), dtype=torch.uint8)
    elif harm == "floats":
        tensors["dispatch/classes"] = torch.rand(3)
    elif harm == "shape":
        tensors["dispatch/weight"] = tensors["dispatch/weight"][:2].contiguous()
    elif harm == "flat":
        tensors["dispatch/weight"] = tensors["dispatch/weight"][:, 0].contiguous()
    elif harm == "width":
        tensors["dispatch/weight"] = tensors["dispatch/weight"][:, :5].contiguous()
    return tensors


@pytest.mark.parametrize(
    ("harm", "said"),
    [("values", "not finite"), ("classes", "do not fit"), ("floats", "no readable classifier"), ("shape", "do not fit"),
     ("flat", "do not fit"), ("width", "reads 5 features")],
)  # fmt: skip
def test_a_classifier_that_does_not_fit_is_refused(agent, tokenizer, dispatcher, tmp_path, harm, said):
    tensors = {name: value.clone() for name, value in dispatcher.to_tensors().items()}
    save_file(spoilt(Dispatcher(dispatcher.classes, tensors["dispatch/weight"], dispatcher.bias), harm),
              tmp_path / ROUTES)  # fmt: skip
    with pytest.raises(HandoffError, match=said) as caught:
        open_first_pass(tmp_path, agent, tokenizer, SILENT_SUMS)
    assert ROUTES in str(caught.value)


def test_a_missing_a_cut_and_a_foreign_classifier_are_refused(agent, tokenizer, dispatcher, tmp_path):
    with pytest.raises(HandoffError, match=f"{ROUTES} with the classifier of questions is not beside it"):
        open_first_pass(tmp_path, agent, tokenizer, SILENT_SUMS)
    path = dispatcher.save(tmp_path)
    for kind in ("ghost", BASE):
        design = AgentDesign(routes={kind: AgentDesign(think="off")})
        with pytest.raises(HandoffError, match=f"a route for '{kind}'"):
            open_first_pass(tmp_path, agent, tokenizer, design)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(HandoffError, match="no readable classifier"):
        open_first_pass(tmp_path, agent, tokenizer, SILENT_SUMS)
