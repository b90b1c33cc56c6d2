"""The machine on which something was timed, in a sentence for the note of its table."""

import os
import platform
from pathlib import Path

import torch

from lib.hardware import has_bfloat16, has_matrix_units


def processor() -> str:
    """Return the processor's name, or at least its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(device: torch.device | None = None) -> str:
    """Describe in a sentence what was measured on: processor, cores, instructions, release of torch, threads.

    Parameters
    ----------
    device : torch.device, optional
        The GPU that was measured, if it was not the processor alone.
    """
    cpu, instructions = torch.device("cpu"), torch.backends.cpu.get_cpu_capability()
    bf16 = f"{'with' if has_bfloat16(cpu) else 'without'} bfloat16 products"
    bf16 += " in matrix units" * has_matrix_units(cpu)
    words = f"{processor()}, {os.cpu_count()} cores ({instructions}, {bf16})"
    if device is not None:
        words = f"{torch.cuda.get_device_name(device)}, beside {words}"
    threads = torch.get_num_threads()
    return f"{words}; PyTorch {torch.__version__}, {threads} thread{'s' * (threads > 1)}."
