"""A process allows itself the connections it needs, as far as its machine lets it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "allowed"),
    [(256, 512, 400, 400), (256, 512, 900, 512), (256, 512, 100, 256)],
    ids=["raised", "up to the hard limit", "never lowered"],
)
def test_the_soft_limit_is_raised(soft: int, hard: int, wanted: int, allowed: int) -> None:
    told = (
        "import resource; from iafactory.common.open_files import open_files_allow;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        f"print(open_files_allow({wanted}), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )

    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)

    assert done.stdout.split() == [str(allowed), str(allowed), str(hard)]
    assert ("may open 512 files" in done.stderr) == (wanted > hard)
