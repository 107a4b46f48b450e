"""The method protocol, and the prompts that methods work on."""

from harness.methods.base import Lengths, Method, QueryCost, Stage, Workbench
from harness.types import Prompt

__all__ = ["Lengths", "Method", "Prompt", "QueryCost", "Stage", "Workbench"]
