"""What figures depend on: processor, cores, system, versions. Never a host name or a path."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ecocore import __version__


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """The machine as it is now. `packages`: whose versions matter beside ecocore's."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "simd": _simd(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {"ecocore": __version__} | {name: _version(name) for name in packages},
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def machine_line(where: dict[str, Any]) -> str:
    """The same in one sentence."""
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    return (
        f"{where['cpu']} ({where['simd']}), {where['cores']} cores, {where['system']}, load {where['load_average']}; "
        f"Python {where['python']}, {packages}."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""


def _cpu_model() -> str:
    found = re.search(r"model name\s*: (.+)", _cpu_info())
    return found[1].strip() if found else platform.machine()


def _simd() -> str:
    flags = set(_cpu_info().split())
    names = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    return next((name for flag, name in names.items() if flag in flags), "no known SIMD")
