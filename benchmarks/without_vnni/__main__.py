"""`python -m benchmarks.without_vnni COMMAND...`: the command sees an AVX2 processor without VNNI.

Libraries choose their kernels by the CPUID instruction. Linux can make it trap (arch_prctl ARCH_SET_CPUID,
flag `cpuid_fault` in /proc/cpuinfo); hide.c, preloaded, answers it without the bits of AVX-512, VNNI and AMX.
So the kernels of an older processor run for real, with their 16-bit saturation, at this processor's clock:
ratios of times are those of the kernels, milliseconds are not those of an old machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("hide.c")


def missing() -> str | None:
    """What this machine lacks for it, in words; None when nothing."""
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or " cpuid_fault" not in flags.read_text():
        return "this processor or its hypervisor cannot trap CPUID (no flag cpuid_fault)"
    if shutil.which("cc") is None:
        return "there is no C compiler (cc)"
    return None


def compiled(folder: Path) -> Path:
    """hide.c as a shared library."""
    library = folder / "hide.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def main() -> int:
    lacks = missing()
    if lacks is not None or len(sys.argv) < 2:
        print(lacks or "Usage: python -m benchmarks.without_vnni COMMAND...", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "LD_PRELOAD": str(compiled(Path(folder)))}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
