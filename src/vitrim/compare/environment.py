"""The environment of a measurement: versions, processor, threads."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import torch

from ..measure.batches import num_cores
from ..version import __version__


def versions() -> dict[str, str]:
    """Versions of vitrim and of the libraries its numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in ("timm", "torchvision", "numpy")}
    return {"vitrim": __version__, "torch": torch.__version__, **found, "python": platform.python_version()}


def environment(device: torch.device) -> dict[str, str]:
    """Describe the machine and the software for the report."""
    return {
        "processor": processor_name(),
        "cores available": str(num_cores()),
        "torch threads": str(torch.get_num_threads()),
        "device": device_name(device),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        **versions(),
    }


def device_name(device: torch.device) -> str:
    """The name of the accelerator, or of the processor for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name() if device.type == "cpu" else str(device)


def processor_name() -> str:
    """The model name of the processor, from the operating system."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
