from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from agent_forge.contract import Artifact
from agent_forge.errors import ConfigError, SessionBusy, SessionNotFound
from agent_forge.storage.checkpoints import save_state, states
from agent_forge.storage.home import Home
from agent_forge.storage.retention import (
    apply_retention,
    collect_blobs,
    delete_session,
    plan_retention,
    prune_session_states,
)
from agent_forge.storage.session_lock import SessionLock
from agent_forge.storage.verify import verify

Store = Callable[..., Artifact]
DAY = 86400.0


@pytest.fixture
def five(home: Home, store: Store) -> dict[str, Artifact]:
    """Sessions s0 (oldest) to s4, each with a model of its own and one that all share."""
    shared, own = store(weights=b"shared"), {}
    for number in range(5):
        name = f"s{number}"
        home.registry.create_session(name, {})
        own[name] = store(weights=name.encode() * 100)
        phase_run = home.registry.begin_phase_run(name, "cognate", name)
        home.registry.commit_phase_run(phase_run, {"model": [own[name]], "shared": [shared]})
        home.blobs.view(own[name])
        (home.session_folder(name) / "note").write_bytes(b"12345")
    return {**own, "shared": shared}


def test_by_number_the_oldest_go_and_a_dry_run_changes_nothing(home: Home, five: dict[str, Artifact]) -> None:
    plan = plan_retention(home, keep_sessions=3, grace_seconds=0)
    assert {session.name: session.reason for session in plan.sessions} == {
        "s0": "beyond the newest 3", "s1": "beyond the newest 3",
    }  # fmt: skip
    assert set(plan.blobs) == {five[name].files["weights"][0] for name in ("s0", "s1")}
    assert plan.freed_bytes == 2 * (200 + 5)
    assert len(home.registry.sessions()) == 5
    assert apply_retention(home, plan_retention(home, keep_sessions=3)) == 2 * 5  # young blobs stay: the grace
    assert collect_blobs(home, grace_seconds=0) == 400
    assert [row.name for row in home.registry.sessions()] == ["s4", "s3", "s2"]
    assert {row.digest for row in home.registry.artifacts()} == {
        five[name].digest for name in ("s2", "s3", "s4", "shared")
    }
    assert verify(home).ok
    assert sorted(path.name for path in home.blobs.views.iterdir()) == sorted(
        five[name].digest for name in ("s2", "s3", "s4")
    )


def test_by_age_all_but_the_newest_go(home: Home, five: dict[str, Artifact]) -> None:
    assert plan_retention(home, max_age_days=30, now=time.time() + 29 * DAY).sessions == ()
    plan = plan_retention(home, max_age_days=30, now=time.time() + 31 * DAY)
    assert [session.name for session in plan.sessions] == ["s3", "s2", "s1", "s0"]
    assert plan.sessions[0].reason == "31 days old"
    assert five["s4"].files["weights"][0] not in plan.blobs


def test_a_session_is_counted_once_when_age_and_number_both_apply(home: Home, five: dict[str, Artifact]) -> None:
    plan = plan_retention(home, keep_sessions=1, max_age_days=1, now=time.time() + 9 * DAY)
    assert len(plan.sessions) == len({session.name for session in plan.sessions}) == len(five) - 2


def test_pinned_and_running_sessions_never_go(home: Home, five: dict[str, Artifact]) -> None:
    home.registry.pin("s0")
    with SessionLock(home.session_folder("s1")):
        plan = plan_retention(home, keep_sessions=1, max_age_days=1, now=time.time() + 99 * DAY, grace_seconds=0)
        assert {session.name for session in plan.sessions} == {"s2", "s3"}
        with pytest.raises(SessionBusy, match="running"):
            delete_session(home, "s1")
        with pytest.raises(ConfigError, match="pinned"):
            delete_session(home, "s0")
        apply_retention(home, plan)
    assert {row.name for row in home.registry.sessions()} == {"s0", "s1", "s4"}
    for name in ("s0", "s1", "s4"):
        home.blobs.view(five[name])


def test_a_session_that_is_pinned_after_the_plan_stays(home: Home, five: dict[str, Artifact]) -> None:
    plan = plan_retention(home, keep_sessions=4, grace_seconds=0)
    home.registry.pin("s0")
    apply_retention(home, plan)
    assert home.registry.session("s0").pinned
    home.blobs.view(five["s0"])
    assert verify(home).ok


def test_a_killed_session_can_be_deleted_and_leaves_an_event(home: Home, five: dict[str, Artifact]) -> None:
    home.registry.set_session_status("s2", "running")
    home.registry.begin_phase_run("s2", "evomerge", "f")
    assert delete_session(home, "s2", "tidy") == 5
    with pytest.raises(SessionNotFound):
        home.registry.session("s2")
    event = home.registry.events("s2")[-1]
    assert (event.kind, event.payload) == (
        "session_deleted", {"reason": "tidy", "artifacts": [five["s2"].digest]},
    )  # fmt: skip
    assert not (home.path / "sessions" / "s2").exists()


def test_young_blobs_stay_because_a_phase_may_be_about_to_commit_them(home: Home, store: Store) -> None:
    artifact = store(weights=b"not yet committed")
    assert collect_blobs(home) == 0
    home.registry.create_session("s", {})
    phase_run = home.registry.begin_phase_run("s", "cognate", "f")
    home.registry.commit_phase_run(phase_run, {"model": [artifact]})
    assert collect_blobs(home, grace_seconds=0) == 0
    assert (home.blobs.view(artifact) / "weights").read_bytes() == b"not yet committed"


def test_states_are_kept_by_phase_and_overall(home: Home) -> None:
    for phase, count in (("cognate", 5), ("bitnet", 8), ("evomerge", 6)):
        folder = home.scratch_folder("s", phase, "f" * 64) / "states"
        for step in range(count):
            save_state(folder, {"w": torch.zeros(2)}, step, keep=99, reserve_bytes=0)
    assert prune_session_states(home, "s") > 0
    kept = {
        phase: [int(path.stem[-2:]) for path in states(home.scratch_folder("s", phase, "f" * 64) / "states")]
        for phase in ("cognate", "bitnet", "evomerge")
    }
    # Three, five and five per phase; of those the ten newest, and always the newest of each phase: resume needs it.
    assert kept == {"cognate": [4], "bitnet": [3, 4, 5, 6, 7], "evomerge": [1, 2, 3, 4, 5]}


def test_limits_that_would_take_everything_are_refused(home: Home) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        plan_retention(home, keep_sessions=0)
