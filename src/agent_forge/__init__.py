"""Agent Forge: text, or a language model, in; a small specialised agent out.

Importing this package imports no torch; ``import agent_forge.model`` registers the Cognate
architecture with the Auto classes of transformers.
"""

__version__ = "0.1.0"
