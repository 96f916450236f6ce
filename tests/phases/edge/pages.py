"""The page's modules as Python can ask them, in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent_forge.errors import ConfigError
from agent_forge.phases.edge.web_export import PAGE
from agent_forge.phases.edge.web_runtime import runtime_archive

ASK = Path(__file__).with_name("ask_page.mjs")


def ask_page(what: str, **asked: Any) -> Any:
    """What a module of the page says; skips the test where there is no Node.

    Raises:
        ValueError: it refused.
    """
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed (make browser)")
    done = subprocess.run(
        [node, str(ASK), str(PAGE)],
        input=json.dumps({"what": what, **asked}), capture_output=True, text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    said = json.loads(done.stdout)
    if "error" in said:
        raise ValueError(said["error"])
    return said["value"]


def need_browser_runtime():
    """Skips a test where a page cannot be made: without Node.js, or where onnxruntime-web cannot be had."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed (make browser)")
    try:
        runtime_archive()
    except ConfigError as error:
        pytest.skip(str(error))
