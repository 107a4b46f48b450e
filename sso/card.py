"""The card (README.md) of a policy: how to use it, what its training spent, and the paper; and its upload."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData, create_repo, upload_folder
from huggingface_hub.errors import HfHubHTTPError

from harness.errors import UserError

PAPER = "arXiv 2410.17131"
CITATION = """@inproceedings{xiang2025self,
    title     = {Self-Steering Optimization: Autonomous Preference Optimization for Large Language Models},
    author    = {Hao Xiang and Bowen Yu and Hongyu Lin and Keming Lu and Yaojie Lu and Xianpei Han and Ben He and
                 Le Sun and Jingren Zhou and Junyang Lin},
    booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
    year      = 2025,
    pages     = {9073--9085},
    eprint    = {2410.17131}
}"""
SPENT = ("flops", "calls", "prompt_tokens", "generated_tokens", "trained_tokens", "updates")


def model_card(
    name: str,
    start: str,
    base_model: str | None,
    trainer: str,
    roles: Mapping[str, Mapping[str, Any]],
    evaluation_flops: float,
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
    datasets: Sequence[str],
    tags: Sequence[str],
) -> str:
    """The text of a card.

    Args:
        start: the model that training started from. base_model: its id, where the hub has it.
        roles: what each role of the ledger spent.
        evaluation_flops: FLOPs of evaluations, which the budget does not have.
    """
    data = ModelCardData(
        model_name=name,
        base_model=base_model,
        library_name="transformers",
        datasets=list(datasets) or None,
        tags=["generated_from_trainer", "sso", *tags],
        license=None,
    )
    rows = [
        f"| {role} | {' | '.join(_number(spent.get(each, 0)) for each in SPENT)} |" for role, spent in roles.items()
    ]
    total = sum(spent["flops"] for spent in roles.values())
    return "\n".join(
        (
            *(f"---\n{data.to_yaml()}\n---", "", f"# {_code(name)}", ""),
            f"{_code(name)} was trained from {_code(start or 'a loaded model')} with `{trainer}`: Self-Steering",
            f"Optimization ({PAPER}), which samples pairs of responses under good and bad principles.",
            *("", "## Use", "", "```python", "from transformers import pipeline", ""),
            f"generator = pipeline({'text-generation'!r}, model={name!r})",
            'question = [{"role": "user", "content": "What colour is the sky?"}]',
            "print(generator(question, max_new_tokens=128, return_full_text=False)[0])",
            *("```", "", "## Budget", ""),
            f"Training spent {total:.4g} FLOPs, all models included. Evaluation, which is not part of it, spent "
            f"{evaluation_flops:.4g}.",
            *(
                "",
                f"| role | {' | '.join(each.replace('_', ' ') for each in SPENT)} |",
                f"|{'---|' * (len(SPENT) + 1)}",
            ),
            *rows,
            *("", "## Settings", "", "| setting | value |", "|---|---|"),
            *(f"| {_code(setting)} | {_code(value)} |" for setting, value in settings.items()),
            *("", "## Versions", ""),
            *(f"- {package} {version}" for package, version in versions.items()),
            *("", "## Citation", "", "```bibtex", CITATION, "```", ""),
        )
    )


def upload(
    folder: str, repository: str, message: str, private: bool | None, token: str | None, revision: str | None
) -> Any:
    """Upload a folder to the hub, into a repository that is made where there is none.

    Raises:
        UserError: when the hub refuses it.
    """
    try:
        made = create_repo(repository, token=token, private=private, exist_ok=True)
        return upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message=message, token=token, revision=revision
        )
    except (HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the policy could not be uploaded to {repository!r} ({reason:.400}): check the name and the token, and "
            "call push_to_hub() again"
        ) from error


def _number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _code(value: Any) -> str:
    """A value as code on one line, safe in a table."""
    text = "".join(mark if mark.isprintable() else " " for mark in str(value)).replace("`", "'").replace("|", "\\|")
    return f"`{' '.join(text.split()) or ' '}`"
