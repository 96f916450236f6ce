from agent_forge.phases.cognate.phase import PHASE


def test_a1_branches_that_do_not_merge_are_told(make_context, make_config):
    """Three strangers: what each learned is undone by the mean of any two."""
    context, inputs = make_context()
    PHASE.run(make_config(specialize_from="scratch", steps=70, checkpoint_every=1000), inputs, context)
    warned = {failure: evidence for failure, _, evidence in context.warnings}
    assert context.measured["cognate/merge_preview"] < 1
    assert warned["A1"]["worst"] == context.measured["cognate/merge_preview"]
    assert "G1" in warned
