"""Failures of phase 7: pruning, fusion, targets and designs."""

from __future__ import annotations

from agent_forge.health.failure import Failure

EDGE: tuple[Failure, ...] = (
    Failure(
        "PR7-M", "a mixture of experts that is worse than the base",
        cause="its weights fit the few examples that they were searched with", phases=("edge",),
        measured="nats of examples that the search has not seen, of every skill; nats on the test split",
        threshold="not better by a standard error on those examples, or fewer than 4 of them; on the test split more "
        "than 1% worse",
        mitigation="the base is taken, and no design is offered the mixture",
        fallback="the gate on edge/mixture_worst_gain_fraction blocks the run",
        shown="report, the figures edge/mixtures_taken, edge/mixture_gain_fraction, edge/mixture_worst_gain_fraction",
        advice="more experts.selection_documents: half of them judge",
        test="tests/faults/test_edge_experts_faults.py::"
        "test_pr7_m_a_mixture_that_only_fits_what_it_was_searched_with_is_not_taken",
    ),
    Failure(
        "PR7-D", "dispatch sends questions to an expert that is not for them",
        cause="a classifier of few questions, skills that look alike", phases=("edge",),
        measured="questions of the test split sent to the right place; nats of their answers with the expert against "
        "the base's",
        threshold="under 95% sent rightly (warning); more than 1% worse than the base (blocks)",
        mitigation="the base answers unless a skill is ahead by more than a bar, set on held questions",
        fallback="the gate on edge/mixture_worst_gain_fraction blocks the run",
        shown="report, the figures edge/dispatch_accuracy, edge/mixture_worst_gain_fraction",
        advice="fewer or less similar experts.skills, more train_documents",
        correction="an agent that is handed on does not dispatch: it uses the experts that its design names",
        test="tests/faults/test_edge_experts_faults.py::"
        "test_pr7_d_a_dispatch_that_sends_questions_to_the_wrong_expert_is_measured_and_blocks",
    ),
    Failure(
        "EDGE-1", "pruning cuts away what was baked in",
        cause="a cut that text hardly minds takes a tool or the persona with it", phases=("edge",),
        measured="tools, persona, bits per byte after each row of cuts; selection split, question by question",
        threshold="2 points may be lost (upper end of the 95% interval), or bits per byte over 1.05 times as many; "
        "what was not asked again, and too few questions to show it, count as lost",
        mitigation="the row is undone bit for bit and halved, down to the one cut that does the harm; its kind stays",
        fallback="the model as it came", shown="cuts and reasons in the report",
        advice="fewer channels in a cut, or no pruning: a small model has little to spare",
        test="tests/faults/test_edge_pruning_faults.py::test_edge_1_a_cut_that_costs_a_tool_is_undone_bit_for_bit",
    ),
    Failure(
        "EDGE-2", "pruning breaks ternary weights or leaves a model that no configuration describes",
        cause="groups of columns share a scale; layers of one configuration have equal shapes", phases=("edge",),
        measured="codes and scales of every cut tensor; shapes of a model built from the configuration",
        threshold="one value that is no scale times a code, one shape that differs",
        mitigation="the cut is refused before it is judged, and nothing has changed", fallback="that kind is not cut",
        shown="reasons in the report", advice="one scale per tensor or per row can be cut",
        test="tests/faults/test_edge_pruning_faults.py::test_edge_2_a_cut_that_would_break_scales_or_shapes_is_refused",
    ),
    Failure(
        "EDGE-3", "fusion changes what the model says",
        cause="something else reads the norm, its gain is not a plain factor, or rounding behind it jumps",
        phases=("edge",), measured="logits before and after, with and without the rounding of activations",
        threshold="a difference over 1e-4", mitigation="the fold is taken back bit for bit, with its reason",
        fallback="not fused", shown="reasons in the report",
        correction="behind int8 activations two orders of one sum differ by tenths of a logit: there gains stay",
        test="tests/faults/test_edge_pruning_faults.py::test_edge_3_a_fold_that_changes_logits_is_taken_back",
    ),
    Failure(
        "EDGE-4", "an estimate is taken for a measurement, or a target is missed unseen",
        cause="the machine at hand is not the one that the agent is for", phases=("edge",),
        measured="first token, tokens per second, memory and size against the bounds of each target",
        threshold="a bound missed; not a number is missed",
        mitigation="each figure says measured or estimated, and how; without rates there is no estimate",
        fallback="the target counts as missed", shown="`agent-forge edge bench`, report",
        advice="measure on the machine itself: `agent-forge edge bench AGENT --target NAME`",
        correction="the specification names no targets for this phase",
        test="tests/faults/test_edge_pruning_faults.py::test_edge_4_a_target_without_figures_is_missed_or_refused",
    ),
    Failure(
        "EDGE-5", "an agent cannot be measured",
        cause="a broken file, too little memory, a missing package", phases=("edge",),
        measured="how the process that measures ends", threshold="an error",
        mitigation="the form is named with the last line of the error", fallback="none: nothing is made up",
        shown="error message, exit code 4", advice="`agent-forge verify`, then measure again",
        test="tests/faults/test_edge_pruning_faults.py::test_edge_5_a_process_that_fails_is_told_with_its_last_line",
    ),
    Failure(
        "EDGE-6", "a design costs tools, or anything else that the search did not ask",
        cause="it is chosen by the families with head-room and used for every question", phases=("edge",),
        measured="tools, needing none, thoughts and ordinary questions outside of the searched families, answered by "
        "the design and by the habit; selection split, question by question",
        threshold="2 points may be lost (upper end of the 95% interval), and 2 of each of the four; too few questions "
        "to show it count as lost",
        mitigation="the next finalist is asked", fallback="the habit: one greedy attempt",
        shown="report (not chosen, and why), the gate edge/design/points_lost on the test split",
        advice="more `edge.design.other_questions`, or `edge.design.routes: true`",
        test="tests/faults/test_edge_design_faults.py::"
        "test_edge_6_a_search_whose_best_design_never_calls_tools_does_not_ship_it",
    ),
    Failure(
        "EDGE-7", "there is no head-room for a design",
        cause="the agent is right or wrong at everything that it is asked, whatever the design", phases=("edge",),
        measured="one greedy attempt on each family, the best design by hand on all of them; selection split",
        threshold="below 20% or above 80% right", mitigation="nothing is searched and nothing is written",
        fallback="the habit: one greedy attempt", shown="report: no design was searched, and why",
        advice="another level of difficulty, or an agent that has learned more",
        test="tests/faults/test_edge_design_faults.py::test_edge_7_without_head_room_the_habit_stays_and_nothing_is_written",
    ),
    Failure(
        "EDGE-8", "designs that fail, or answer nothing",
        cause="a part that this model does not have, or a thought that uses up every token", phases=("edge",),
        measured="errors of an evaluation; questions without any answer", threshold="one",
        mitigation="a failed design counts as an evaluation with nothing right, a blank answer as wrong",
        fallback="other designs; the habit is always among them",
        shown="edge/design/failed_evaluations, edge/design/test_blank_fraction",
        test="tests/faults/test_edge_design_faults.py::test_edge_8_failed_and_blank_designs_are_charged_and_not_chosen",
    ),
)  # fmt: skip
