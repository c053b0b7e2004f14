"""Backgrounds are some pictures of a folder, made small; what cannot be used of them is said in a sentence."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchard.errors import InputError, UsageError
from orchard.features import backgrounds
from orchard.features.backgrounds import Backgrounds, of_run, read
from orchard.features.views import pictures
from orchard.images.decoding import Limits
from orchard.output import Output
from orchard.settings import Settings
from orchard.storage import S3Options


def found(folder: Path, known: str = "") -> Backgrounds:
    return read(str(folder), Limits(), S3Options(), known=known)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "market"
    photos.mkdir()
    for number, colour in enumerate(((200, 0, 0), (0, 200, 0), (0, 0, 200))):
        Image.new("RGB", (900, 600 + number), colour).save(photos / f"{number}.jpg")
    return photos


def test_the_middle_of_each_is_kept_small_and_files_are_known_by_their_content(folder: Path) -> None:
    first = found(folder)
    kept = pictures(first.content)
    assert [picture.shape for picture in kept] == [(backgrounds.SIDE, backgrounds.SIDE, 3)] * 3
    assert {int(picture.mean(axis=(0, 1)).argmax()) for picture in kept} == {0, 1, 2}
    (folder / "0.jpg").rename(folder / "renamed.jpg")
    assert found(folder) == first
    assert found(folder, known=first.digest) == Backgrounds(first.digest)  # nothing was decoded
    (folder / "2.jpg").unlink()
    assert found(folder).digest != first.digest


def test_no_more_are_taken_than_every_executor_can_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backgrounds, "MOST", 2)
    first = found(folder)
    assert len(pictures(first.content)) == 2
    assert found(folder) == first


def test_bad_files_are_a_sentence_and_nothing_but_bad_files_an_error(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "3.jpg").write_bytes((folder / "0.jpg").read_bytes()[:900])
    with caplog.at_level(logging.WARNING):
        assert len(pictures(found(folder).content)) == 3
    (said,) = caplog.messages
    assert said.startswith(f"--backgrounds {folder}: 1 of 4 files cannot be used, such as {folder}/3.jpg (JPEG: ")
    for number in range(3):
        (folder / f"{number}.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 1 files cannot be used, such as .*: give photos that can be decoded"):
        found(folder)
    with pytest.raises(InputError, match=r"^--backgrounds: source .*gone does not exist"):
        found(folder / "gone")


def test_backgrounds_are_for_random_views(folder: Path, tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    with pytest.raises(UsageError, match="give --views N, too"):
        of_run(output, Settings(backgrounds=str(folder)), 0)
    assert of_run(output, Settings(backgrounds="none"), 0) == Backgrounds()
    assert len(pictures(of_run(output, Settings(backgrounds=str(folder)), 2).content)) == 3
    assert all(isinstance(picture, np.ndarray) for picture in pictures(found(folder).content))
