from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from agent_forge.contract import Artifact
from agent_forge.errors import ArtifactMissing, ConfigError, ModelNotFound, SessionNotFound
from agent_forge.storage.home import Home

Store = Callable[..., Artifact]


def run(home: Home, session: str, phase: str, fingerprint: str, outputs: dict, inputs: dict | None = None) -> int:  # type: ignore[type-arg]
    phase_run = home.registry.begin_phase_run(session, phase, fingerprint, inputs=inputs)
    home.registry.commit_phase_run(phase_run, outputs)
    return phase_run


def test_a_session_goes_through_its_life(home: Home) -> None:
    home.registry.create_session("s", {"seed": 1}, {"preset": "smoke"})
    home.registry.set_session_status("s", "running", {"device": "cpu"})
    home.registry.pin("s")
    row = home.registry.session("s")
    assert (row.status, row.pinned, row.config, row.facts) == (
        "running", True, {"seed": 1}, {"preset": "smoke", "device": "cpu"},
    )  # fmt: skip
    home.registry.unpin("s")
    assert not home.registry.session("s").pinned
    assert [event.kind for event in home.registry.events("s")] == ["session_created"] + ["session_changed"] * 3


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-x", "a b", "x" * 201])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str, home: Home) -> None:
    with pytest.raises(ConfigError):
        home.registry.create_session(name, {})
    assert home.registry.sessions() == []


def test_a_taken_name_and_unknown_names_are_refused(home: Home) -> None:
    home.registry.create_session("s", {})
    with pytest.raises(ConfigError, match="resume"):
        home.registry.create_session("s", {})
    for call in (home.registry.session, home.registry.pin, home.registry.delete_session):
        with pytest.raises(SessionNotFound):
            call("nobody")
    with pytest.raises(ValueError, match="done"):
        home.registry.set_session_status("s", "done")


def test_a_phase_run_comes_back_as_it_was_committed(home: Home, store: Store) -> None:
    home.registry.create_session("s", {})
    corpus, one, two = store("corpus", text=b"t"), store(weights=b"1"), store(weights=b"2")
    phase_run = home.registry.begin_phase_run("s", "cognate", "f" * 64, inputs={"corpus": [corpus]})
    warning = {"failure": "C1", "message": "always halts"}
    home.registry.commit_phase_run(
        phase_run, {"specialists": [two, one], "trunk": [one]}, {"bits": 1.5}, {"ladder": [1]}, [warning], "degraded"
    )
    row = home.registry.phase_run(phase_run)
    assert row.inputs == {"corpus": (corpus.digest,)}
    assert row.outputs == {"specialists": (two, one), "trunk": (one,)}
    assert (row.status, row.attempt, row.measured, row.warnings) == ("degraded", 1, {"bits": 1.5}, (warning,))
    assert home.registry.attachments(phase_run) == {"ladder": [1]}
    assert row.finished_at is not None
    assert row.finished_at >= row.started_at


def test_only_a_completed_fingerprint_is_found_and_attempts_count_on(home: Home, store: Store) -> None:
    home.registry.create_session("s", {})
    first = home.registry.begin_phase_run("s", "cognate", "f")
    assert home.registry.find_completed("f") is None
    home.registry.fail_phase_run(first, "failed", "Traceback")
    assert home.registry.find_completed("f") is None
    second = run(home, "s", "cognate", "f", {"model": [store()]})
    found = home.registry.find_completed("f")
    assert found is not None
    assert (found.id, found.attempt) == (second, 2)
    assert [(row.status, row.traceback) for row in home.registry.phase_runs("s")] == [
        ("failed", "Traceback"), ("completed", None),
    ]  # fmt: skip


def test_a_commit_with_a_missing_file_changes_nothing(home: Home, store: Store) -> None:
    home.registry.create_session("s", {})
    good, lost = store(weights=b"good"), store(weights=b"lost")
    home.blobs.location(lost.files["weights"][0]).unlink()
    phase_run = home.registry.begin_phase_run("s", "cognate", "f")
    with pytest.raises(ArtifactMissing, match="weights"):
        home.registry.commit_phase_run(phase_run, {"model": [good], "other": [lost]}, {"x": 1.0}, {"a": 1})
    row = home.registry.phase_run(phase_run)
    assert (row.status, row.outputs, row.measured) == ("running", {}, {})
    assert home.registry.artifacts() == []
    assert home.registry.attachments(phase_run) == {}


def test_a_phase_run_ends_only_once(home: Home) -> None:
    home.registry.create_session("s", {})
    phase_run = home.registry.begin_phase_run("s", "cognate", "f")
    home.registry.fail_phase_run(phase_run, "timeout")
    with pytest.raises(ValueError, match="not running"):
        home.registry.commit_phase_run(phase_run, {})
    with pytest.raises(ValueError, match="broken"):
        home.registry.fail_phase_run(phase_run, "broken")
    assert home.registry.phase_run(phase_run).status == "timeout"


def test_runs_that_a_killed_process_left_are_abandoned(home: Home) -> None:
    home.registry.create_session("s", {})
    home.registry.create_session("t", {})
    mine, other = home.registry.begin_phase_run("s", "bitnet", "f"), home.registry.begin_phase_run("t", "bitnet", "g")
    assert home.registry.abandon_running("s") == [mine]
    assert home.registry.phase_run(mine).status == "interrupted"
    assert home.registry.phase_run(other).status == "running"


def test_an_artifact_is_found_by_a_prefix(home: Home, store: Store) -> None:
    home.registry.create_session("s", {})
    artifacts = [store(weights=str(number).encode()) for number in range(40)]
    run(home, "s", "cognate", "f", {"models": artifacts})
    for artifact in artifacts:
        row = home.registry.artifact(artifact.digest[:20])
        assert (row.artifact, row.session, row.phase, row.name) == (artifact, "s", "cognate", "models")
    for bad in ("abc", "zzzzzz", "0" * 64, "%%%%"):
        with pytest.raises(ModelNotFound):
            home.registry.artifact(bad)


def test_an_ambiguous_prefix_is_refused(home: Home, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_forge.storage.registry._SHORTEST_PREFIX", 1)
    home.registry.create_session("s", {})
    artifacts = [store(weights=str(number).encode()) for number in range(17)]  # two of 17 share a first character
    run(home, "s", "cognate", "f", {"models": artifacts})
    digests = sorted(artifact.digest for artifact in artifacts)
    shared = next(one[0] for one, two in itertools.pairwise(digests) if one[0] == two[0])
    with pytest.raises(ModelNotFound, match="ambiguous"):
        home.registry.artifact(shared)


def test_artifacts_are_listed_by_kind_and_session(home: Home, store: Store) -> None:
    home.registry.create_session("s", {})
    home.registry.create_session("t", {})
    model, agent = store(weights=b"m"), store("agent_file", agent=b"a")
    run(home, "s", "cognate", "f", {"model": [model]})
    run(home, "t", "compression", "g", {"agent": [agent]}, {"model": [model]})
    assert {row.digest for row in home.registry.artifacts()} == {model.digest, agent.digest}
    assert [row.digest for row in home.registry.artifacts(kind="agent_file")] == [agent.digest]
    assert [row.digest for row in home.registry.artifacts(session="s")] == [model.digest]
    assert len(home.registry.artifacts(limit=1)) == 1


def test_lineage_reaches_back_to_the_corpus_across_sessions(home: Home, store: Store) -> None:
    home.registry.create_session("s", {})
    home.registry.create_session("t", {})
    corpus, one, two, merged, agent = (store(weights=name) for name in (b"c", b"1", b"2", b"m", b"a"))
    run(home, "s", "cognate", "f1", {"specialists": [one, two]}, {"corpus": [corpus]})
    run(home, "s", "evomerge", "f2", {"model": [merged]}, {"specialists": [one, two], "corpus": [corpus]})
    run(home, "t", "evomerge", "f2", {"model": [merged]}, {"specialists": [one, two], "corpus": [corpus]})
    run(home, "t", "compression", "f3", {"agent": [agent]}, {"model": [merged]})
    rows = {row.digest: row for row in home.registry.lineage(agent.digest)}
    assert [row.depth for row in rows.values()] == sorted(row.depth for row in rows.values())
    assert {digest: row.depth for digest, row in rows.items()} == {
        agent.digest: 0, merged.digest: 1, one.digest: 2, two.digest: 2, corpus.digest: 2,
    }  # fmt: skip
    assert rows[merged.digest].parents == (corpus.digest, one.digest, two.digest)
    assert (rows[merged.digest].session, rows[agent.digest].phase) == ("s", "compression")
    assert rows[corpus.digest].phase is None


def test_deleting_a_session_keeps_what_others_name(home: Home, store: Store) -> None:
    home.registry.create_session("s", {})
    home.registry.create_session("t", {})
    shared, own = store(weights=b"shared"), store(weights=b"own")
    run(home, "s", "cognate", "f", {"model": [shared, own]})
    run(home, "t", "cognate", "f", {"model": [shared]})
    home.registry.pin("s")
    with pytest.raises(ConfigError, match="pinned"):
        home.registry.delete_session("s")
    home.registry.unpin("s")
    assert home.registry.delete_session("s") == [own.digest]
    assert [row.digest for row in home.registry.artifacts()] == [shared.digest]
    assert home.registry.events("s")[-1].kind == "session_deleted"


def test_events_can_be_followed(home: Home) -> None:
    for number in range(5):
        home.registry.add_event(None, "tick", {"number": number})
    events = home.registry.events()
    assert [event.payload["number"] for event in home.registry.events(after=events[2].id)] == [3, 4]
