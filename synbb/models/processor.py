"""What a processor can do of its own accord."""

from __future__ import annotations

import os
from pathlib import Path

FACTS = Path("/proc/cpuinfo")
MOST = "ONEDNN_MAX_CPU_ISA"
"""The variable by which oneDNN is told, before its first use, which instructions it may use at most."""
EMULATED = "this processor has no instructions for bf16 and emulates it, which takes many times as long"


def emulates_bf16(facts: Path = FACTS) -> bool:
    """Whether a processor is an x86 one without instructions for bf16 (AVX512_BF16, AMX), as ``/proc/cpuinfo`` tells.

    Where there is no such file, or it states no flags (ARM), nothing is known and the answer is no.
    """
    flags = _flags(facts)
    return flags is not None and not {"avx512_bf16", "amx_bf16"} & flags


def leave_amx_alone(facts: Path = FACTS) -> bool:
    """Have oneDNN, which nothing in this process may have used yet, compute bf16 without AMX.

    With AMX its gradient of the weights of a convolution writes beyond its buffers unless maps are small (of 96 x 96 it
    does, of 64 x 64 not; ``brgconv_bwd_w``, PyTorch 2.13): the process dies, at once or later. Where the environment
    says itself which instructions may be used, that holds.

    Returns:
        Whether the processor has AMX that is left alone.
    """
    if "amx_bf16" not in (_flags(facts) or ()) or MOST in os.environ:
        return False
    os.environ[MOST] = "AVX512_CORE_FP16"
    return True


def _flags(facts: Path) -> set[str] | None:
    try:
        lines = facts.read_text().splitlines()
    except OSError:
        return None
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), None)
