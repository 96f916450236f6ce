"""What the fork server imports once, so that a phase starts in a fraction of a second.

Only imports: no tensor may be computed here, because threads do not survive a fork.
"""

import torch  # noqa: F401
import transformers.models.auto.modeling_auto  # noqa: F401

import agent_forge.model
import agent_forge.phases.baking.phase
import agent_forge.phases.bitnet.phase
import agent_forge.phases.cognate.phase
import agent_forge.phases.compression.phase
import agent_forge.phases.edge.phase
import agent_forge.phases.evomerge.phase
import agent_forge.phases.forge.phase
import agent_forge.pipeline.context  # noqa: F401
