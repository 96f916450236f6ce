"""The step graph of any other causal language model of `transformers`: its own forward, with its cache laid open.

Only architectures whose layers all look at the whole past are taken; keys and values are the one state that
`transformers`' standard cache has.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from agent_forge.model.forward import head_inputs
from agent_forge.model.ternary import TernaryLinear
from agent_forge.phases.edge.onnx_layers import Projection, State


class TransformersStep(nn.Module):
    """As `onnx_graph.CognateStep`, for a model that is not ours.

    Args:
        model: in evaluation mode, ternary layers frozen.
        projection: how products of ternary layers are made; that of the flavour.
        features: whether what the head reads for the last token comes out, too.
        adapted: other layers whose products are made like that.

    Raises:
        ValueError: layers with a sliding window, or without keys and values.
    """

    one_by_one = True

    def __init__(
        self,
        model: PreTrainedModel,
        projection: Projection,
        *,
        features: bool = False,
        adapted: Collection[nn.Module] = (),
    ) -> None:
        super().__init__()
        config: Any = model.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
        if kinds or getattr(config, "sliding_window", None):
            raise ValueError(
                f"{config.model_type} has layers ({', '.join(sorted(kinds)) or 'sliding window'}) whose cache is not "
                "keys and values of the whole past; models whose layers all have full attention can be exported"
            )
        self.model, self.features = copy.deepcopy(model), features
        for path, layer in model.named_modules():
            if isinstance(layer, TernaryLinear) or (isinstance(layer, nn.Linear) and layer in adapted):
                self.model.set_submodule(path, projection([layer]))
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self.num_layers, self.shape = int(config.num_hidden_layers), (1, heads, "past", size)

    def states(self) -> list[State]:
        """The past, in the order of the arguments and results of `forward`."""
        found = [State("past_positions", "present_positions", (1, "past"), "int64")]
        for index in range(self.num_layers):
            for name in ("key", "value"):
                found.append(State(f"past_key_values.{index}.{name}", f"present.{index}.{name}", self.shape))
        return found

    def sight(self) -> dict[str, int | None]:
        """How far back a token sees; None = all the way."""
        return {"window": None, "global_every": 0}

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """One pass; as `onnx_graph.CognateStep.forward`."""
        before, rest = past[0], past[1:]
        start = F.pad(before, (1, 0), value=-1).amax(1, keepdim=True) + 1
        positions = start + torch.arange(input_ids.shape[1])[None]
        keys = torch.cat([before, positions], 1)
        cache = DynamicCache(zip(rest[::2], rest[1::2], strict=True))
        visible = (keys[:, None, :] <= positions[:, :, None])[:, None]
        with head_inputs(self.model) as read:
            output = self.model(
                input_ids=input_ids,
                attention_mask=visible,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        features = [read[0][:, -1]] if self.features else []
        present = [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return output.logits[:, -1], *features, keys, *present
