"""What a task makes sure of before it works."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from orchard.errors import StorageError
from orchard.features.worker import MARKER, Job, check_folders
from orchard.images.decoding import Limits
from orchard.storage import S3Options, open_storage


@pytest.fixture
def job(tmp_path: Path) -> Job:
    storage = open_storage(str(tmp_path / "out"))
    storage.write(f"staging/{MARKER}", b"")
    return Job(cast(Any, None), Limits(), S3Options(), storage, "staging/", str(tmp_path))


def test_an_executor_that_sees_the_drivers_folders_works(job: Job) -> None:
    check_folders(job)
    check_folders(replace(job, folder=None))


def test_an_executor_without_the_images_folder_says_so_instead_of_rejecting_every_image(job: Job) -> None:
    with pytest.raises(
        StorageError, match=r"^/photos, which the driver saw, is not there on .*: bring it back .* mount its"
    ):
        check_folders(replace(job, folder="/photos"))


def test_an_executor_with_another_output_folder_says_so_instead_of_losing_its_rows(job: Job, tmp_path: Path) -> None:
    (tmp_path / "out" / "staging" / MARKER).unlink()  # the folder is there, but it is not the driver's
    with pytest.raises(StorageError, match=f"^{tmp_path}/out, which the driver saw, is not there"):
        check_folders(job)


def test_workers_do_not_import_openvinos_usage_statistics() -> None:
    code = (
        "import sys\nfrom orchard.features.artifact import EngineName\n"
        "from orchard.features.worker import import_libraries\n"
        "import_libraries(EngineName.OPENVINO, 0)\n"
        "assert 'openvino' in sys.modules and not sys.modules['openvino_telemetry']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
