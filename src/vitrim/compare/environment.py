"""What a measurement was made with: versions, processor, threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from ..version import __version__


def versions() -> dict[str, str]:
    """Versions of vitrim and of what its numbers depend on, by name."""

    found = {name: importlib.metadata.version(name) for name in ("timm", "torchvision", "numpy")}
    return {"vitrim": __version__, "torch": torch.__version__, **found, "python": platform.python_version()}


def environment(device: torch.device) -> dict[str, str]:
    """The machine and the software, as the report shows them."""
    return {
        "processor": processor_name(),
        "cores available": str(num_cores()),
        "torch threads": str(torch.get_num_threads()),
        "device": device_name(device),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        **versions(),
    }


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name() if device.type == "cpu" else str(device)


def processor_name() -> str:
    """The processor's model as the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
