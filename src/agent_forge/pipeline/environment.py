"""The machine and the libraries, as plain values, without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from agent_forge.evaluation.processor import usable_cores

LIBRARIES = ("agent-forge", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "sqlalchemy")
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "avx512_bf16": "bf16",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "bf16": "bf16",
    "sve": "SVE",
}


def environment(device: str = "auto", threads: int = 0) -> dict[str, Any]:
    """What decides how fast a run is and which bits it gives.

    Args:
        device: as configured; ``auto`` is resolved.
        threads: as configured; 0 is all cores.
    """
    return {
        "device": choose_device(device),
        "threads": threads or cores(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := library_version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpu_features": cpu_features(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "gpus": gpu_names(),
    }


def choose_device(wanted: str) -> str:
    """``auto`` is the first CUDA device if there is one, else the CPU.

    torch is imported only where a device file hints at a GPU, so that reusing a finished run stays instant.
    """
    if wanted != "auto":
        return wanted
    if Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists():
        import torch

        if torch.cuda.is_available():
            return "cuda"
    return "cpu"


def library_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Cores that this process may use; fewer where OMP_NUM_THREADS asks for fewer, as every library reads it."""
    free = usable_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(free, int(asked)) if asked.isdigit() and int(asked) else free


def memory_bytes() -> int:
    """Memory that this process may use: of the machine, or of its control group where that is less."""
    total = int(psutil.virtual_memory().total)
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def free_disk_bytes(path: Path) -> int:
    """Free bytes of the disk that holds ``path`` or its nearest parent that exists."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def cpu_features(info: str | None = None) -> list[str]:
    """Instructions that matter here, from the flags in ``info`` (``/proc/cpuinfo`` by default)."""
    lines = _cpuinfo() if info is None else info
    flags: set[str] = set()
    for line in lines.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags.update(value.split())
    return list(dict.fromkeys(label for flag, label in _FEATURES.items() if flag in flags))


def cpu_name() -> str:
    """The model of the processor as the system names it."""
    for line in _cpuinfo().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def gpu_names(root: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """NVIDIA devices that the driver names."""
    names = []
    for path in sorted(root.glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                names.append(line.partition(":")[2].strip())
    return names


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.is_file() else ""
