"""The clock of a first token and of those after it."""

import pytest
from tests.model.conftest import SMALL, disturbed

from agent_forge.evaluation import decoding_speed as speed
from agent_forge.model import CognateConfig
from agent_forge.model.generation import generate_tokens


def test_a_warm_up_goes_before_and_every_token_is_the_next_ones_input():
    calls = []

    def step(given, begins):
        calls.append((list(given), begins))
        return len(calls)

    speed.decoding_speed(step, [7, 8], tokens=2, repeats=3)
    assert len(calls) == (3 + 1) * (1 + 2)
    assert [given for given, begins in calls if begins] == [[7, 8]] * 4
    assert all(given == [number] for number, (given, begins) in enumerate(calls) if not begins)


def test_medians_by_hand_without_the_warm_up(monkeypatch):
    """A clock that steps: the first round is slow in all, then first tokens take 1, 2 and 9."""
    ticks, now = [], 0.0
    for first, rest in ((50, 50), (1, 4), (2, 1), (9, 2)):
        ticks += [now, now + first, now + first + rest]
        now += first + rest
    monkeypatch.setattr(speed.time, "perf_counter", iter(ticks).__next__)
    assert speed.decoding_speed(lambda given, begins: 0, [1], tokens=2, repeats=3) == (2, 1)


@pytest.mark.parametrize("kind", ["cognate", "llama"])
def test_steps_say_what_greedy_decoding_says(kind, make_llama):
    model = disturbed(CognateConfig(**SMALL)) if kind == "cognate" else make_llama()
    step = speed.cached_step(model)
    for prompt in ([1, 7, 8, 9], [1, 12]):  # the second text begins anew
        said = [step(prompt, True)]
        while len(said) < 6:
            said.append(step(said[-1:], False))
        assert said == list(generate_tokens(model, None, prompt, max_tokens=6))
