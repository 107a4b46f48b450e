"""Rows of data sets from the hub: fetched once into the library's cache, then read without a network."""

import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from harness.errors import UserError
from harness.files.rows import UNREAD

_NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>.+))?", re.ASCII)
FORM = "OWNER/NAME[/CONFIG][:SPLIT]"
SPLIT = "train"


def is_dataset_name(text: str) -> bool:
    """Whether a text has the form of a data set's name (FORM)."""
    return _NAME.fullmatch(text) is not None


def located(name: str, columns: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield ("NAME: row N", row) for each row of a data set. Its code is never run.

    Args:
        columns: the columns to read; others (images, say) are not decoded, and are UNREAD in each row.

    Raises:
        UserError: when the name has another form, or the data set cannot be fetched or has none of the columns.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError
    from pyarrow import ArrowException

    parts = _NAME.fullmatch(name)
    if not parts:
        raise UserError(f"{name}: is not the name of a data set: write {FORM}")
    if os.path.isdir(parts["id"]):  # which the library would take for the data set
        raise UserError(f"{name}: {parts['id']} is a folder here: give one of its files")
    try:
        rows = load_dataset(parts["id"], parts["config"], split=parts["split"] or SPLIT)
    except (DatasetsError, ArrowException, HTTPError, OSError, ValueError, KeyError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        offline = " and unset HF_HUB_OFFLINE to fetch it" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise UserError(
            f"{name}: neither a file nor a data set that the hub has ({reason:.300}): check the name ({FORM}){offline}"
        ) from None
    wanted = [each for each in rows.column_names if each in columns]
    if not wanted:
        raise UserError(f"{name}: has none of the columns {', '.join(columns)}")
    others = dict.fromkeys((each for each in rows.column_names if each not in columns), UNREAD)
    for number, row in enumerate(rows.select_columns(wanted), 1):
        yield f"{name}: row {number}", others | row
