"""Every write of a run fails once, on a full disk: one clear line, no half file, and in the end the same bytes."""

import shutil
import sys

import pytest
from write_faults import start

SHORT = (  # the points that fail in the test suite
    "^(write|rename) /runs/faults/.*(base-seed#/(answering/math/comp|steps/.?samples-math)|judge/req"
    "|index[.]|preferences/.?policy|policy/(.?examples|.*/(optimizer|.?complete))|checkpoints/.?policy($|.*(.tmp|r.json)$))"
)


@pytest.mark.skipif(sys.platform != "linux", reason="a library is preloaded, as on Linux")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")
def test_a_disk_that_is_full_for_a_moment(tmp_path, testbed_model_dir):
    """Writing and renaming some files of each kind; all operations in the long form."""
    done = start(tmp_path, "sso", "5e10", "ENOSPC", SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    operations = {"write", "rename"}
    assert all(operation in done.stdout for operation in operations), done.stdout
