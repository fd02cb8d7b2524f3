"""What a processor can do of its own accord."""

from __future__ import annotations

from pathlib import Path

FACTS = Path("/proc/cpuinfo")
EMULATED = "this processor has no instructions for bf16 and emulates it, which takes many times as long"


def emulates_bf16(facts: Path = FACTS) -> bool:
    """Whether a processor is an x86 one without instructions for bf16 (AVX512_BF16, AMX), as ``/proc/cpuinfo`` tells.

    Where there is no such file, or it states no flags (ARM), nothing is known and the answer is no.
    """
    try:
        lines = facts.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return flags is not None and not {"avx512_bf16", "amx_bf16"} & set(flags)
