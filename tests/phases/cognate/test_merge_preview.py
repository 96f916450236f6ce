import torch

from agent_forge.optim.slerp import slerp
from agent_forge.phases.cognate.merge_preview import slerp_states


def test_every_tensor_of_two_states_is_interpolated_as_phase_2_does_it():
    first = {"w": torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16), "gain": torch.tensor([1.0, 0.0])}
    second = {"w": torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16), "gain": torch.tensor([0.0, 1.0])}
    merged = slerp_states(first, second)
    assert merged["w"].dtype == torch.bfloat16
    torch.testing.assert_close(merged["w"].float(), torch.full((1, 2), 0.5**0.5), atol=1e-2, rtol=0)
    assert merged["gain"].tolist() == [0.5, 0.5]
    assert torch.equal(slerp_states(first, second, 0.25)["gain"], slerp(first["gain"], second["gain"], 0.25))
