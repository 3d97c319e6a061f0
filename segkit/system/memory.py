"""Memory of this process and of its device, in bytes."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

CGROUPS = (  # limit and use
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
DROPPED = ("inactive_file", "total_inactive_file")  # of the use: files that were read, which can be dropped


def held() -> int:
    """What this process holds of the machine's memory; the most so far, where the system tells no more."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return _most_so_far()


def peak(device: torch.device) -> int:
    """The most that this process has held so far of the device's memory; of a CPU that of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    status = Path("/proc/self/status")
    if status.is_file():  # what resource tells includes the process that started this one
        high = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
        if high is not None:
            return int(high.split()[1]) * 1024
    return _most_so_far()


def available(device: torch.device) -> int:
    """What the device could still give to this process, the others that run beside it getting as much."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    rooms = [room for room in (_of_machine(), *_of_cgroups(Path("/sys/fs/cgroup"))) if room is not None]
    return max(0, min(rooms)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _of_machine() -> int:
    file = Path("/proc/meminfo")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * resource.getpagesize() // 2  # macOS does not tell what is free


def _of_cgroups(root: Path) -> list[int]:
    """What a container's limits leave."""
    rooms = []
    for limit, use in CGROUPS:
        if (root / limit).is_file() and (text := (root / limit).read_text().strip()).isdigit():
            dropped = 0
            stat = (root / use).with_name("memory.stat")
            for line in stat.read_text().splitlines() if stat.is_file() else ():
                name, value = line.split()
                if name in DROPPED:
                    dropped = int(value)
            rooms.append(int(text) - int((root / use).read_text()) + dropped)
    return rooms


def _most_so_far() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
