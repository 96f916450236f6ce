"""Matrix products of the flavour ``web``: standard operators only, for runtimes without fast integer products.

The weights come in base 3 and become one fp32 matrix when the graph is loaded; inputs are rounded as the trained
layer rounds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from agent_forge.model.ternary import TernaryLinear
from agent_forge.phases.edge.onnx_weights import CodedMatrix, rounded_activations


class UnpackedLinear(nn.Module):
    """One or several ternary layers, side by side.

    Args:
        layers: frozen, with the same input and bits of activations, without bias.
    """

    def __init__(self, layers: Sequence[TernaryLinear]) -> None:
        super().__init__()
        self.matrix = CodedMatrix(layers)
        self.rounds = layers[0].activation_bits > 0

    def unpacked(self) -> Tensor:
        """The weights as fp32 [in, outputs of all layers]."""
        return self.matrix.weight()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., outputs of all layers]."""
        if self.rounds:
            whole, scale = rounded_activations(x)
            x = whole / scale
        return x @ self.unpacked()
