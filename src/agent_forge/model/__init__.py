"""The Cognate model, and what the other rooms do with any causal language model.

Importing this registers Cognate with the Auto classes of `transformers`, so that a checkpoint folder
loads with no remote code.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM

from agent_forge.model.config import CognateConfig
from agent_forge.model.modeling import CognateForCausalLM, CognateOutput

AutoConfig.register("cognate", CognateConfig, exist_ok=True)
AutoModelForCausalLM.register(CognateConfig, CognateForCausalLM, exist_ok=True)

__all__ = ["CognateConfig", "CognateForCausalLM", "CognateOutput"]
