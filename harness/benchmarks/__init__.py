"""The benchmark protocol and its defaults: questions, answers, judgments and scores, one file for each benchmark."""

from harness.benchmarks.base import Benchmark, BenchmarkSize, HubTask, Judging, Policy, Questions, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.files.data_files import DataFile, HubRows

__all__ = [
    "Benchmark",
    "BenchmarkDefaults",
    "BenchmarkSize",
    "DataFile",
    "HubRows",
    "HubTask",
    "Judging",
    "Policy",
    "Questions",
    "Score",
    "Settings",
]
