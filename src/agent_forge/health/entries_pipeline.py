"""Failures that belong to no single phase: machine, disk, processes, input."""

from __future__ import annotations

from agent_forge.health.failure import EVERYWHERE, Failure

PIPELINE: tuple[Failure, ...] = (
    Failure(
        "CF4", "phases deadlock or do not fit",
        cause="a missing handoff, a phase that hangs, a lock that stays", phases=EVERYWHERE,
        measured="the plan before the start; seconds of each phase", threshold="any gap; the phase's limit",
        mitigation="refused before the first step; the phase's process is ended", fallback="declared one, `degraded`",
        shown="plan, events", advice="`agent-forge plan` names the gap; raise the limit of that phase",
        test="tests/faults/test_pipeline_faults.py::test_cf4_a_phase_over_its_time_is_ended_and_can_go_on",
    ),
    Failure(
        "CF5", "the service is overloaded", cause="more requests than workers", phases=EVERYWHERE,
        measured="queue, p99", threshold="> 500 ms", mitigation="429 with Retry-After", fallback="more workers",
        later="the service is not built yet",
    ),
    Failure(
        "RISK-003", "the dashboard costs training memory", cause="one process for both", phases=EVERYWHERE,
        measured="resident memory of training", threshold="any growth", mitigation="a process of its own",
        fallback="end it", later="the dashboard is not built yet",
    ),
    Failure(
        "RISK-005", "SQLite locks",
        cause="a deferred transaction that turns from reading to writing", phases=EVERYWHERE,
        measured="one writer and three readers at once", threshold="one error",
        mitigation="WAL, BEGIN IMMEDIATE, one write lock, synchronous FULL, busy timeout", fallback="a clear error",
        shown="doctor names the linked SQLite", advice="end the program that holds registry.db",
        correction="cache_size counts pages when positive: −10000 is 10 MB",
        test="tests/faults/test_storage_faults.py::test_one_writer_and_three_readers_never_meet_a_lock",
    ),
    Failure(
        "RISK-006", "checkpoints pile up", cause="every state is kept", phases=EVERYWHERE,
        measured="states per phase and overall", threshold="3 in cognate, 5 per phase, 10 overall",
        mitigation="the oldest go", fallback="none", shown="sessions gc",
        test="tests/faults/test_storage_faults.py::test_states_and_sessions_do_not_pile_up",
    ),
    Failure(
        "RISK-008", "sessions pile up", cause="nothing is ever deleted", phases=EVERYWHERE,
        measured="age and number of sessions", threshold="30 days, 50 sessions",
        mitigation="`sessions gc`, a dry run first; never running or pinned ones", fallback="delete by hand",
        shown="sessions gc, events", advice="`agent-forge sessions gc`",
        test="tests/faults/test_storage_faults.py::test_states_and_sessions_do_not_pile_up",
    ),
    Failure(
        "ENV1", "memory too small",
        cause="a batch or model larger than the machine", phases=EVERYWHERE,
        measured="memory over the limit; the end of the phase's process", threshold="> 80%; any out-of-memory",
        mitigation="the phase alone ends, with its row and its advice", fallback="declared one, or stop",
        advice="halve the micro-batch, or raise the memory limit",
        test="tests/faults/test_pipeline_faults.py::test_env1_a_phase_over_its_memory_is_ended_alone",
    ),
    Failure(
        "ENV2", "disk full",
        cause="other programs, long runs", phases=EVERYWHERE, measured="free space before each save; ENOSPC",
        threshold="free < need + reserve; > 80% used warns",
        mitigation="older states go; the save is refused before its first byte",
        fallback="a clear error; nothing committed is lost, resume goes on", shown="error, doctor",
        advice="`agent-forge sessions gc`, or another --home",
        test="tests/test_bad_input.py::test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room",
    ),
    Failure(
        "ENV3", "network lost", cause="no network, a slow hub", phases=EVERYWHERE,
        measured="the download's error", threshold="any", mitigation="local files and cache come first",
        fallback="one clear sentence", shown="error, exit code 2", advice="download once, then give the folder",
        test="tests/faults/test_data_faults.py::test_the_network_is_tried_again_and_then_named",
    ),
    Failure(
        "KILL", "killed at any instant, power lost",
        cause="kill −9, out-of-memory killer, power cut", phases=EVERYWHERE,
        measured="acknowledged artifacts against registry and bytes", threshold="one lost or half-written",
        mitigation="bytes are durable before their row, and the row before the answer", fallback="none needed",
        shown="resume, verify", advice="`agent-forge resume SESSION`",
        test="tests/faults/test_pipeline_faults.py::test_when_the_runner_is_killed_its_phase_ends_itself_and_resuming_gives_the_same",
    ),
    Failure(
        "CORRUPT", "an artifact was altered on disk", cause="bit rot, a foreign program", phases=EVERYWHERE,
        measured="sha256 at every load", threshold="one bit",
        mitigation="refused with path and both digests", fallback="the phase that made it runs again",
        shown="error with exit code 5, verify", advice="`agent-forge verify`, then resume",
        test="tests/faults/test_pipeline_faults.py::test_an_altered_artifact_is_found_and_made_again",
    ),
    Failure(
        "BUSY", "two runs on one session", cause="started twice, or left behind", phases=EVERYWHERE,
        measured="lock with owner and heartbeat", threshold="a live owner",
        mitigation="the second is refused; a stale lock is taken over visibly", fallback="none", shown="error, events",
        test="tests/test_bad_input.py::test_two_runs_on_one_session",
    ),
    Failure(
        "CLOCK", "the clock jumps", cause="time is set, daylight saving, suspend", phases=EVERYWHERE,
        measured="order by id, heartbeats on the monotonic clock", threshold="none",
        mitigation="no decision about a lock or an order reads the clock", fallback="none", shown="tests",
        test="tests/faults/test_storage_faults.py::test_a_clock_that_jumps_changes_no_order_and_loses_no_lock",
    ),
    Failure(
        "INPUT", "bad text", cause="empty, one line, binary, not UTF-8, one huge line", phases=EVERYWHERE,
        measured="at the border", threshold="any", mitigation="one sentence, exit code 2, nothing written",
        fallback="none", shown="error, data inspect", advice="`agent-forge data inspect PATH`",
        test="tests/test_bad_input.py::test_text_that_cannot_be_used_leaves_nothing",
    ),
    Failure(
        "PARENT", "a checkpoint that cannot be used",
        cause="NaN, a missing tensor, another shape or tokenizer", phases=EVERYWHERE,
        measured="at the border", threshold="any", mitigation="refused, naming file, tensor and both values",
        fallback="none", shown="error, exit code 2",
        test="tests/test_bad_input.py::test_a_checkpoint_that_cannot_be_used",
    ),
    Failure(
        "NEWER", "a home of a newer version", cause="two versions on one machine", phases=EVERYWHERE,
        measured="format of home and registry", threshold="above what is known",
        mitigation="refused, nothing is changed", fallback="none", shown="error, exit code 2",
        test="tests/test_bad_input.py::test_a_home_of_a_newer_version_is_left_as_it_is",
    ),
    Failure(
        "READONLY", "a home that cannot be written", cause="rights, a read-only file system", phases=EVERYWHERE,
        measured="a write at opening", threshold="refused", mitigation="one sentence before anything starts",
        fallback="none", shown="error, exit code 2",
        test="tests/test_bad_input.py::test_a_home_that_cannot_be_written_is_refused_before_anything_starts",
    ),
    Failure(
        "HOUSE", "the code's own rules are not kept (RISK-010)", cause="rules that nothing checks",
        phases=EVERYWHERE, measured="length of functions and files, imports, names", threshold="any breach",
        mitigation="house tests, pre-commit", fallback="none", shown="make check",
        test="tests/house/test_layout.py::test_functions_and_files_are_short",
    ),
)  # fmt: skip
