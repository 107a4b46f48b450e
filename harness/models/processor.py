"""What Linux says about the CPU."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def fields() -> dict[str, str]:
    """Return name -> value of the first core in /proc/cpuinfo, such as "vendor_id"; empty elsewhere than on Linux."""
    try:
        first, _, _ = CPUINFO.read_text().partition("\n\n")
    except OSError:
        return {}
    named = [line.partition(":") for line in first.splitlines()]
    return {name.strip(): value.strip() for name, _, value in named}
