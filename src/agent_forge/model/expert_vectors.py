"""Expert vectors (SVF): one skill as a factor for each singular value of each matrix, beside weights that stay.

Paper: Sun, Cetin and Tang 2025, "Transformer²: Self-adaptive LLMs" (arXiv:2501.06252, section 3.1): W = U diag(σ) Vᵀ,
an expert is a vector z per matrix, W' = U diag(σ ⊙ z) Vᵀ.

What we do differently:
1. The matrix is never changed. The layer gives W x + U_r diag(σ_r ⊙ (z − 1)) V_rᵀ x, a low-rank side path: a packed
   ternary matrix stays packed, and r (z − 1) below the rank of the matrix is the paper's with 1 behind r.
2. z starts at 1 (the paper's code starts near 0.1 and divides it out again). A matrix whose z is 1 throughout gets no
   side path, so that the identity holds bit for bit.
3. Attention is adapted too; the paper's release adapts the MLP alone.
4. A mixture is 1 + Σ α_k (z_k − 1): weights that do not sum to 1 leave the rest to the base, none at all is the base.
5. Stored are z (fp16, and that is what runs) and σ_r. U and V are computed again from the base, whose matrices
   must have the same digest and the same σ_r, else the vector is skipped with the reason.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from agent_forge.errors import HandoffError
from agent_forge.model.roles import quantizable_linears

EXPERTS = "experts.safetensors"
FORMAT_VERSION = 1
SMALLEST, LARGEST = -4.0, 6.0
"""z outside is no adaptation of a direction but a new matrix: such a vector is not used. 1 is the middle."""
_SAME_SINGULAR = 1e-4
_EXPERT, _SINGULAR = "expert/", "singular/"
_HEADER = "agent_forge"


@dataclass(frozen=True)
class Factors:
    """The leading singular directions of one matrix, fp32.

    Attributes:
        left: U_r, [out, r].
        singular: σ_r, [r], descending.
        right: V_rᵀ, [r, in].
    """

    left: Tensor
    singular: Tensor
    right: Tensor


@dataclass(frozen=True)
class Basis:
    """The singular directions of a model's matrices.

    Attributes:
        factors: by the name of the weight.
        digest: sha256 (hex) over names, shapes and float32 values of the whole matrices.
    """

    factors: Mapping[str, Factors]
    digest: str

    @property
    def num_parameters(self) -> int:
        """Length of all vectors of an expert together."""
        return sum(len(each.singular) for each in self.factors.values())


@dataclass(frozen=True)
class Expert:
    """One skill, or a mixture of skills.

    Attributes:
        name: of the skill.
        vectors: z by the name of the weight, fp32 [r] of fp16 values.
        base: digest of the matrices that it was made for (`Basis.digest`).
        facts: what is known about it: gains and how they were measured. JSON values.
    """

    name: str
    vectors: Mapping[str, Tensor]
    base: str
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def num_parameters(self) -> int:
        """Length of all vectors together."""
        return sum(len(z) for z in self.vectors.values())


def decompose(model: nn.Module, rank: int) -> Basis:
    """Truncated SVD of every body matrix.

    Args:
        model: any causal language model; of a ternary layer the dequantized weight counts.
        rank: r; a matrix with fewer singular values gives all it has.

    Raises:
        ValueError: the rank is below 1, or the model has no body matrix.
    """
    if rank < 1:
        raise ValueError(f"a rank of at least 1 is needed, got {rank}")
    matrices = {name: module.weight.detach() for name, module in quantizable_linears(model)}
    if not matrices:
        raise ValueError(f"{type(model).__name__} has no linear layer in its body that could be adapted")
    # whoever asks first, somebody else may train with the answer: no tensors of inference mode
    with torch.inference_mode(False), torch.no_grad():
        factors = {name: _factors(weight.clone(), rank) for name, weight in matrices.items()}
    return Basis(factors, digest_of_matrices(matrices))


def digest_of_matrices(matrices: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over names, shapes and float32 values: equal for a ternary matrix and its dequantized copy."""
    digest = hashlib.sha256()
    for name, weight in sorted(matrices.items()):
        digest.update(f"{name} {list(weight.shape)}\n".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def identity(basis: Basis, name: str = "base") -> Expert:
    """The expert that changes nothing."""
    return Expert(name, {key: torch.ones(len(each.singular)) for key, each in basis.factors.items()}, basis.digest)


def mixed(experts: Sequence[Expert], weights: Sequence[float], *, name: str = "mixture") -> Expert:
    """The mixture 1 + Σ α_k (z_k − 1), drawn back towards 1 as a whole where it would leave the allowed range.

    Args:
        experts: at least one, all of one base.
        weights: α, one each.
        name: of the mixture.

    Raises:
        ValueError: no expert, another count of weights, a weight that is not finite, or experts of different bases.
    """
    if not experts or len(experts) != len(weights):
        raise ValueError(f"{len(experts)} experts and {len(weights)} weights: one weight for each of at least one")
    if not all(torch.isfinite(torch.tensor(float(weight))) for weight in weights):
        raise ValueError(f"weights must be finite, got {list(weights)}")
    if len({expert.base for expert in experts}) > 1 or len({tuple(sorted(each.vectors)) for each in experts}) > 1:
        raise ValueError(f"experts of different bases cannot be mixed: {[expert.name for expert in experts]}")
    change = {
        name: sum((w * (each.vectors[name] - 1) for each, w in zip(experts, weights, strict=True)), torch.zeros(()))
        for name in experts[0].vectors
    }
    return Expert(name, normalised({key: 1 + delta for key, delta in change.items()}), experts[0].base)


def mixture_of(experts: Sequence[Expert], weights: Mapping[str, float]) -> Expert | None:
    """`mixed` by the names of experts; None where no weight is left to mix.

    Raises:
        ValueError: a name that no expert has.
    """
    known = {expert.name: expert for expert in experts}
    if unknown := sorted(set(weights) - set(known)):
        raise ValueError(f"there is no expert {unknown[0]!r}; there are {', '.join(known) or 'none'}")
    named = {name: weight for name, weight in weights.items() if weight}
    return mixed([known[name] for name in named], list(named.values())) if named else None


def normalised(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """z as it is stored (fp16 values); drawn back towards 1, all by the same factor, if some value is out of range."""
    span = max((float((z - 1).abs().max()) for z in vectors.values() if len(z)), default=0.0)
    allowed = min(1 - SMALLEST, LARGEST - 1)
    strength = 1.0 if span <= allowed else allowed / span
    return {name: (1 + strength * (z - 1)).clamp(SMALLEST, LARGEST).half().float() for name, z in vectors.items()}


def faults(expert: Expert, basis: Basis) -> str:
    """Why ``expert`` cannot be used on the model of ``basis``; empty if it can."""
    if missing := sorted(set(basis.factors) ^ set(expert.vectors)):
        return f"it is about other matrices: {missing[0]} is on one side only"
    for name, z in expert.vectors.items():
        wanted = len(basis.factors[name].singular)
        if tuple(z.shape) != (wanted,):
            return f"{name} has a vector of shape {list(z.shape)}, this model needs [{wanted}]"
        if not bool(z.isfinite().all()):
            return f"{name} holds {int((~z.isfinite()).sum())} of {wanted} values that are not finite"
        low, high = float(z.min()), float(z.max())
        if low < SMALLEST or high > LARGEST:
            return f"{name} reaches from {low:.3g} to {high:.3g}; {SMALLEST:g} to {LARGEST:g} is allowed"
    if expert.base != basis.digest:
        return f"it was made for a base with digest {expert.base[:12]}, this one has {basis.digest[:12]}"
    return ""


@contextmanager
def applied(model: nn.Module, expert: Expert, basis: Basis | None = None) -> Iterator[None]:
    """Within, ``model`` computes with the expert. Weights are not touched, and an expert of ones adds nothing at all.

    Args:
        model: the model that the expert was made for.
        expert: one, or a mixture.
        basis: of the model; None = computed, and kept for as long as the model and its weights stay.

    Raises:
        ValueError: the expert does not fit the model (`faults`).
    """
    basis = basis or basis_of(model, max((len(z) for z in expert.vectors.values()), default=1))
    if why := faults(expert, basis):
        raise ValueError(f"expert {expert.name} cannot be used: {why}")
    with side_paths(model, basis, {name: z for name, z in expert.vectors.items() if bool((z != 1).any())}):
        yield


@contextmanager
def side_paths(model: nn.Module, basis: Basis, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, layers named in ``vectors`` add U_r diag(σ_r ⊙ (z − 1)) V_rᵀ x; z may ask for gradients."""
    modules = dict(model.named_modules())
    handles = []
    try:
        for name, z in vectors.items():
            module = modules[name.removesuffix(".weight")]
            handles.append(module.register_forward_hook(_side_path(basis.factors[name], z)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _side_path(factors: Factors, z: Tensor) -> Any:
    fixed = None if z.requires_grad else factors.left * (factors.singular * (z.to(factors.left) - 1))

    def add(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        x = arguments[0]
        inner = F.linear(x, factors.right.to(x))
        if fixed is not None:
            return output + F.linear(inner, fixed.to(x))
        change = factors.singular.to(x) * (z.to(x) - 1)
        return output + F.linear(inner * change, factors.left.to(x))

    return add


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Basis]] = weakref.WeakKeyDictionary()


def basis_of(model: nn.Module, rank: int) -> Basis:
    """`decompose`, computed once for a model for as long as none of its matrices is written to."""
    matrices = [module.weight for _, module in quantizable_linears(model)]
    state = (rank, *((weight.data_ptr(), _writes(weight)) for weight in matrices))
    known = _KNOWN.get(model)
    if known is None or known[0] != state:
        known = state, decompose(model, rank)
        _KNOWN[model] = known
    return known[1]


def _writes(weight: Tensor) -> int:
    """How often the tensor was written to; those of inference mode do not count it."""
    return 0 if weight.is_inference() else weight._version


def save_experts(
    folder: Path, experts: Sequence[Expert], basis: Basis, *, more: Mapping[str, Tensor] | None = None
) -> Path:
    """Writes ``experts.safetensors`` beside the weights.

    Args:
        folder: of the checkpoint.
        experts: at least one; names must differ.
        basis: of the model that they were made for.
        more: tensors that belong to them (a classifier), by names with a slash of their own room.

    Raises:
        ValueError: no expert, two of one name, or one that cannot be used on this base.
    """
    names = [expert.name for expert in experts]
    if not experts or len(set(names)) < len(names):
        raise ValueError(f"experts need different names, got {names}")
    tensors = {name: value.contiguous() for name, value in (more or {}).items()}
    for number, expert in enumerate(experts):
        if why := faults(expert, basis):
            raise ValueError(f"expert {expert.name} cannot be saved: {why}")
        tensors |= {f"{_EXPERT}{number}/{key}": z.half() for key, z in expert.vectors.items()}
    tensors |= {f"{_SINGULAR}{name}": each.singular.contiguous() for name, each in basis.factors.items()}
    rows = [{"name": each.name, "base": each.base, "facts": dict(each.facts)} for each in experts]
    # one key: safetensors writes several in any order, and equal experts must give equal bytes
    header = json.dumps({"format_version": FORMAT_VERSION, "experts": rows}, sort_keys=True)
    path = Path(folder) / EXPERTS
    save_file(tensors, path, {_HEADER: header})
    return path


def load_experts(folder: Path, model: nn.Module) -> tuple[list[Expert], dict[str, str]]:
    """Reads ``experts.safetensors``.

    Args:
        folder: of a checkpoint; without the file there are no experts.
        model: that they are to be used on.

    Returns:
        Those that can be used, in the order in which they were saved; and name → reason of those that were skipped.

    Raises:
        HandoffError: the file cannot be read, or has a format that is not known here.
    """
    path = Path(folder) / EXPERTS
    if not path.exists():
        return [], {}
    found, singular = _read(path)
    rank = max((len(values) for values in singular.values()), default=1)
    basis = basis_of(model, rank)
    usable: list[Expert] = []
    skipped: dict[str, str] = {}
    for expert in found:
        if why := faults(expert, basis) or _other_singular(singular, basis):
            skipped[expert.name] = why
        else:
            usable.append(expert)
    return usable, skipped


def _read(path: Path) -> tuple[list[Expert], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            names = [name for name in file.keys() if name.startswith((_EXPERT, _SINGULAR))]  # noqa: SIM118 - no mapping
            tensors = {name: file.get_tensor(name) for name in names}
        version = int(header["format_version"])
        rows = [(str(row["name"]), str(row["base"]), dict(row["facts"])) for row in header["experts"]]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise HandoffError(f"{path} is not a file of expert vectors: {error!r}") from error
    if version != FORMAT_VERSION:
        raise HandoffError(f"{path} has format version {version}, this program reads {FORMAT_VERSION}; update it")
    experts = []
    for number, (name, base, facts) in enumerate(rows):
        start = f"{_EXPERT}{number}/"
        vectors = {key[len(start) :]: z.float() for key, z in tensors.items() if key.startswith(start)}
        experts.append(Expert(name, vectors, base, facts))
    return experts, {key[len(_SINGULAR) :]: value for key, value in tensors.items() if key.startswith(_SINGULAR)}


def _other_singular(singular: Mapping[str, Tensor], basis: Basis) -> str:
    """Why the directions of this machine are not those that the vectors are about; empty if they are."""
    for name, factors in basis.factors.items():
        stored = singular.get(name)
        if stored is None or stored.shape != factors.singular.shape:
            return f"the file has no singular values of {name}"
        gap = float((stored - factors.singular.cpu()).abs().max() / factors.singular.max().clamp(min=1e-30))
        if not gap <= _SAME_SINGULAR:
            return f"singular values of {name} differ by {gap:.2g} of the largest; {_SAME_SINGULAR:g} is allowed"
    return ""


def _factors(weight: Tensor, rank: int) -> Factors:
    """By the eigenvectors of the smaller of W Wᵀ and Wᵀ W, in float64: leading values to 14 digits, and faster than
    an SVD. Directions whose value is lost in rounding have no effect and are zero.
    """
    matrix = weight.detach().cpu().double()
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    kept = min(rank, wide.shape[0])
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    singular = squares.flip(0)[:kept].clamp(min=0).sqrt()
    singular = torch.where(singular > 1e-6 * singular[:1], singular, 0.0)
    short = vectors.flip(1)[:, :kept]
    inverse = torch.where(singular > 0, 1 / singular, 0.0)
    long = (short.T @ wide) * inverse[:, None]
    left, right = (short, long) if wide is matrix else (long.T, short.T)
    return Factors(*(part.float().contiguous().to(weight.device) for part in (left, singular, right)))
