"""Cores and board, on systems that cannot tell as well."""

import os

from agent_forge.evaluation.processor import board, usable_cores


def test_cores_where_the_system_knows_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()


def test_the_board_is_what_the_device_tree_says(tmp_path):
    (tmp_path / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    assert board(tmp_path / "model") == "Raspberry Pi 4 Model B Rev 1.4"
    assert board(tmp_path / "none") == ""
