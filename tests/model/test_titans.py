import pytest
import torch
import torch.nn.functional as F

from agent_forge.model.attention import TokenLayout, document_positions
from agent_forge.model.titans import ERROR_CAP, STEP_CAP, AssociativeMemory, Writes, associate, chunk_grid


def text(batch=2, length=19, heads=2, size=4, seed=0):
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(seed + len(shape) + shape[-1]))  # noqa: E731
    key = F.normalize(draw(batch, length, heads, size), dim=-1)
    query = F.normalize(draw(batch, length, heads, size).flip(1), dim=-1)
    value = draw(length, batch, heads, size).transpose(0, 1).flip(0)
    rates = draw(batch, length, heads * 3).chunk(3, -1)
    return query, Writes(key, value, *rates)


def plain(length):
    return TokenLayout(torch.arange(length)[None])


def by_loop(query, writes, chunk):
    """The recurrences of the paper, token by token, gradients at the weights of the chunk's start."""
    batch, length, heads, size = query.shape
    reads = torch.zeros_like(query)
    for b in range(batch):
        for h in range(heads):
            memory, surprise = torch.zeros(size, size), torch.zeros(size, size)
            for start in range(0, length, chunk):
                frozen = memory.clone()
                stop = min(start + chunk, length)
                reads[b, start:stop, h] = query[b, start:stop, h] @ frozen.T
                if stop - start < chunk:
                    break
                eta, step, alpha = (
                    torch.sigmoid(x[b, start:stop, h]) for x in (writes.momentum, writes.step, writes.forget)
                )
                step = step * STEP_CAP
                keys, values = writes.key[b, start:stop, h], writes.value[b, start:stop, h]
                gains = [
                    step[j]
                    * sum(torch.prod(1 - alpha[t + 1 :]) * torch.prod(eta[j + 1 : t + 1]) for t in range(j, chunk))
                    for j in range(chunk)
                ]
                gain = sum(2 * gains[j] * torch.outer(keys[j], keys[j]) for j in range(chunk))
                scale = 1 / max(1.0, float(gain.norm()))
                for j in range(chunk):
                    error = frozen @ keys[j] - values[j]
                    error = error / torch.sqrt(1 + error.square().sum() / ERROR_CAP**2)
                    surprise = eta[j] * surprise - step[j] * scale * 2 * torch.outer(error, keys[j])
                    memory = (1 - alpha[j]) * memory + surprise
    return reads


@pytest.mark.parametrize("chunk", [1, 4, 5, 32])
def test_the_closed_form_equals_the_recurrence(chunk):
    query, writes = text()
    found, _ = associate(query, writes, plain(19), chunk=chunk)
    torch.testing.assert_close(found, by_loop(query, writes, chunk), atol=1e-5, rtol=1e-4)


def test_one_write_checked_on_paper():
    key = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    value = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    low, high = torch.full((1, 2, 1), -40.0), torch.full((1, 2, 1), 40.0)
    # no momentum, no forgetting, step at its cap of 0.5: ∇ = −2·error, the error clamped by √(1 + 4/16)
    found, (memory, _) = associate(key, Writes(key, value, low, high, low), plain(2), chunk=1)
    once = 2 / 1.25**0.5
    torch.testing.assert_close(found[0, :, 0], torch.tensor([[0.0, 0.0], [0.0, once]]))
    rest = (2 - once) / (1 + (2 - once) ** 2 / 16) ** 0.5
    torch.testing.assert_close(memory[0, 0], torch.tensor([[0.0, 0.0], [once + rest, 0.0]]))


def test_a_token_reads_closed_chunks_only():
    query, writes = text(length=16)
    before, _ = associate(query, writes, plain(16), chunk=4)
    for at in (0, 5, 11):
        changed = Writes(*(x.clone() for x in vars(writes).values()))
        changed.value[:, at] += 1.0
        after, _ = associate(query, changed, plain(16), chunk=4)
        closes = at - at % 4 + 4
        torch.testing.assert_close(after[:, :closes], before[:, :closes], atol=0, rtol=0)
        assert not torch.allclose(after[:, closes:], before[:, closes:])


def test_samples_and_heads_do_not_mix():
    query, writes = text(batch=3)
    before, _ = associate(query, writes, plain(19), chunk=4)
    changed = Writes(*(x.clone() for x in vars(writes).values()))
    changed.key[1, :, 0] = changed.key[1, :, 0].flip(0)
    after, _ = associate(query, changed, plain(19), chunk=4)
    same = torch.ones(3, 2, dtype=torch.bool)
    same[1, 0] = False
    assert torch.equal(after.transpose(1, 2)[same], before.transpose(1, 2)[same])
    assert not torch.allclose(after[1, :, 0], before[1, :, 0])


@pytest.mark.parametrize("pieces", [[19], [1] * 19, [4, 4, 11], [3, 9, 1, 6]])
def test_state_handed_over_equals_state_recomputed(pieces):
    torch.manual_seed(0)
    module = AssociativeMemory(6, 8, 2, 4)
    torch.nn.init.normal_(module.up_proj.weight)
    x = torch.randn(2, 19, 6)
    whole = module(x, plain(19))
    states: dict = {}
    start, parts = 0, []
    for piece in pieces:
        layout = TokenLayout(torch.arange(start, start + piece)[None])
        parts.append(module(x[:, start : start + piece], layout, states))
        start += piece
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert states["memory"]["key"].shape[1] < 4


def test_packed_documents_read_like_alone():
    query, writes = text(batch=1, length=19)
    documents = torch.tensor([[0] * 6 + [1] * 9 + [2] * 3 + [-1]])
    layout = TokenLayout(document_positions(documents), documents, documents >= 0)
    packed, _ = associate(query, writes, layout, chunk=4)
    for start, stop in ((0, 6), (6, 15), (15, 18)):
        part = writes.apply(lambda x, start=start, stop=stop: x[:, start:stop])
        alone, _ = associate(query[:, start:stop], part, plain(stop - start), chunk=4)
        torch.testing.assert_close(packed[:, start:stop], alone)


def test_chunks_start_anew_with_each_document():
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, -1]])
    grid = chunk_grid(TokenLayout(document_positions(documents), documents, documents >= 0), 2)
    assert grid.filled.tolist() == [[[True, True], [True, False], [True, True], [True, True], [True, False]]]
    assert grid.fresh.tolist() == [[True, False, True, False, False]]
    tokens = torch.arange(9)[None]
    assert grid.arrange(tokens)[grid.filled].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert grid.restore(grid.arrange(tokens))[0, :8].tolist() == list(range(8))


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_equal_keys_and_long_texts_stay_bounded(size):
    length = 2000
    key = F.normalize(torch.ones(1, length, 1, 4), dim=-1)
    value = torch.full((1, length, 1, 4), size)
    high = torch.full((1, length, 1), 30.0)
    low = torch.full((1, length, 1), -30.0)
    found, (memory, _) = associate(key, Writes(key, value, low, high, low), plain(length), chunk=16)
    assert found.isfinite().all()
    assert found.abs().max() <= size * 1.01
    if size == 1.0:
        torch.testing.assert_close(memory[0, 0] @ key[0, 0, 0], value[0, 0, 0])


def test_gradients_are_finite_from_the_very_start():
    torch.manual_seed(0)
    module = AssociativeMemory(6, 8, 2, 4)
    module(torch.zeros(1, 13, 6), plain(13)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
