"""The CPU as a step depends on it: kind, maker and instruction sets, from /proc/cpuinfo."""

import platform

from harness.models import fingerprints, processor

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC: 9R14
flags\t\t: fpu avx2 avx512f

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n"


def device(monkeypatch, tmp_path, text):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    return fingerprints._cpu.__wrapped__()


def test_the_first_core_counts(monkeypatch, tmp_path):
    machine = platform.machine()
    assert device(monkeypatch, tmp_path, X86) == f"cpu {machine} AuthenticAMD avx2 avx512f"
    assert fingerprints.machine("cpu")["processor"] == "AMD EPYC: 9R14"
    assert device(monkeypatch, tmp_path, ARM) == f"cpu {machine} asimd sve"


def test_elsewhere_than_on_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert processor.fields() == {} and fingerprints._cpu.__wrapped__() == f"cpu {platform.machine()}"
    assert fingerprints.machine("cpu")["processor"]
