import pytest
import torch

from agent_forge.phases.cognate.merge_preview import slerp, slerp_states


def test_halfway_between_two_axes():
    found = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found, torch.full((2,), 0.5**0.5))


def test_ends_parallels_and_opposites():
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[-4.0, 3.0]])
    torch.testing.assert_close(slerp(first, second, 0.0), first)
    torch.testing.assert_close(slerp(first, second, 1.0), second)
    torch.testing.assert_close(slerp(first, 2 * first), 1.5 * first)
    assert torch.isfinite(slerp(first, -first)).all()
    assert set(slerp_states({"a": first}, {"a": second})) == {"a"}


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match="cannot interpolate"):
        slerp(torch.zeros(2), torch.zeros(3))
