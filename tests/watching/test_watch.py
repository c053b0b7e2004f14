"""``orchard watch`` as a robot runs it: an exported file, frames as they come, and hardly a package installed."""

import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import openvino
import pytest
from openvino import opset13 as opset
from PIL import Image

from orchard.exports.formats import Format, StoredPrecision, card_beside
from orchard.exports.writing import export
from orchard.images.decoding import Decoded, Rejection
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor
from orchard.vocabulary import Fit, Reason
from orchard.watching.frames import Look, frames

NOT_THERE = "pyspark", "tensorflow", "keras", "pyarrow", "pandas", "pydantic", "rich", "kubernetes", "sklearn", "nncf"


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("robot") / "fruits.onnx"
    export(str(trained), str(file), Format.ONNX, StoredPrecision.FLOAT32)
    return file


@pytest.fixture(scope="session")
def robot(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine that has few packages."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({NOT_THERE!r})\n")
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2] / "app")])
    return os.environ | {"PYTHONPATH": path}


def write_graph(file: Path, digest: str) -> None:
    """Write a graph for OpenVINO that says of which model it is."""
    picture = opset.parameter([1], np.float32)
    graph = openvino.Model([opset.relu(picture)], [picture])
    graph.set_rt_info(digest, ["orchard", "digest"])
    openvino.save_model(graph, file)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "orchard", "watch", *map(str, arguments)]


@contextmanager
def watching(robot: dict[str, str], *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments), env=robot, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_folder_that_fills_is_answered_newest_first(
    trained: Path, exported: Path, robot: dict[str, str], fruits: Path, tmp_path: Path
) -> None:
    photos = [sorted((fruits / "Test" / label).glob("*.jpg"))[5] for label in ("Mango", "Raspberry", "Plum 5")]
    for age, photo in enumerate(photos[:2]):
        shutil.copy(photo, tmp_path / f"{age}.jpg")
        os.utime(tmp_path / f"{age}.jpg", (1000 + age, 1000 + age))
    (tmp_path / "notes.txt").write_text("no picture")
    with watching(robot, exported, tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        first = json.loads(process.stdout.readline())
        assert (first["frame"], first["skipped"], first["number"]) == ("1.jpg", 1, 1)
        (tmp_path / "2.jpg").write_bytes(photos[2].read_bytes()[:1500])  # half of it
        second = json.loads(process.stdout.readline())
        assert (second["frame"], second["reason"], second["skipped"]) == ("2.jpg", "truncated", 0)
        shutil.copy(photos[2], tmp_path / "2.jpg")  # and then all
        third = json.loads(process.stdout.readline())
        assert (third["frame"], third["label"], third["answer"]) == ("2.jpg", "Plum 5", "sure")
        assert 0 < third["milliseconds"] < 10_000
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == "orchard: interrupted.\n"
    predictor = Predictor(Model.load(str(trained)))
    for line, photo in ((first, photos[1]), (third, photos[2])):
        decoded = predictor.decode(photo.read_bytes())
        assert isinstance(decoded, Decoded)
        expected = predictor.predict([decoded.pixels], top=3)[0]
        assert [found["label"] for found in line["top"]] == [label for label, _ in expected.top]
        assert line["confidence"] == pytest.approx(expected.top[0][1], abs=1e-3)
        assert line["familiarity"] == pytest.approx(expected.familiarity, abs=1e-3)
        assert (line["answer"], line["label"]) == (expected.answer, expected.label)


def test_a_file_that_is_written_slowly_is_answered_once_and_whole(tmp_path: Path) -> None:
    """A camera's network stalls: half of a picture was told as truncated."""
    photo = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "0.jpg").write_bytes(photo)
    os.utime(tmp_path / "0.jpg", (1000, 1000))
    with (tmp_path / "1.jpg").open("wb", buffering=0) as file:
        file.write(photo[: len(photo) // 2])
        found = frames(str(tmp_path), Look(64, Fit.STRETCH, None))
        first = next(found)  # what is whole does not wait for it
        time.sleep(0.2)
        file.write(photo[len(photo) // 2 :])
    second = next(found)
    assert [(frame.name, isinstance(frame.picture, np.ndarray)) for frame in (first, second)] == [
        ("0.jpg", True),
        ("1.jpg", True),
    ]


def test_a_name_that_is_not_utf8_is_text_all_the_same(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.jpg")).write_bytes(b"")
    assert next(frames(str(tmp_path), Look(64, Fit.STRETCH, None))).name == "\\xe9.jpg"


def test_of_a_file_that_is_too_large_no_more_is_read_than_tells_it(tmp_path: Path) -> None:
    with (tmp_path / "camera.jpg").open("wb") as file:
        file.truncate(20 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    picture = next(frames(str(tmp_path), Look(64, Fit.STRETCH, None))).picture
    assert isinstance(picture, Rejection) and picture.reason is Reason.TOO_LARGE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_hidden_names_do_not_count_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    photo = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "._1.jpg").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    (tmp_path / ".in.2.jpg").write_bytes(photo[: len(photo) // 2])
    (tmp_path / "1.jpg").symlink_to("/proc/self/mem")  # a file that opens, and cannot be read, as of a broken disk
    found = frames(str(tmp_path), Look(64, Fit.STRETCH, None))
    first = next(found)
    assert (first.name, first.skipped) == ("1.jpg", 0)
    assert first.picture == Rejection(Reason.UNREADABLE, "Input/output error")
    (tmp_path / ".in.2.jpg").write_bytes(photo)
    (tmp_path / ".in.2.jpg").rename(tmp_path / "2.jpg")
    second = next(found)
    assert (second.name, second.skipped) == ("2.jpg", 0)
    assert isinstance(second.picture, np.ndarray)


@pytest.mark.parametrize("suffix", ["JPG", "jpe", "jfif", "heic", "HEIF", "avif", "png", "webp", "bmp", "gif", "tiff"])
def test_an_image_of_every_format_counts_by_its_usual_names(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchard.watching.frames._SLOW_SECONDS", 0)
    (tmp_path / "0.part").write_bytes(b"")
    (tmp_path / f"1.{suffix}").write_bytes(b"")
    frame = next(frames(str(tmp_path), Look(64, Fit.STRETCH, None)))
    assert (frame.name, frame.skipped) == (f"1.{suffix}", 0)


def test_a_video_is_answered_in_its_own_time(
    exported: Path, robot: dict[str, str], fruits: Path, tmp_path: Path
) -> None:
    video = tmp_path / "belt.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (100, 100))
    for label in ("Mango", "Raspberry"):
        for photo in sorted((fruits / "Test" / label).glob("*.jpg"))[:10]:
            writer.write(np.asarray(Image.open(photo).convert("RGB"))[:, :, ::-1])
    writer.release()
    done = subprocess.run(
        command(exported, video, "--rate", "2"), env=robot, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frame"] for line in lines] == ["0.000", "0.500", "1.000", "1.500"]
    assert [line["skipped"] for line in lines] == [0, 4, 4, 4]
    assert [line["top"][0]["label"] for line in lines] == ["Mango", "Mango", "Raspberry", "Raspberry"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("gone.onnx", "."), 3, "There is no file gone.onnx: write it with orchard export."),
        (("model.pt", "."), 2, "neither an ONNX nor an OpenVINO file"),
        (
            ("alone.onnx", "."),
            3,
            "The model card alone.onnx.json cannot be read (No such file or directory): copy it along",
        ),
        (("earlier.onnx", "."), 3, "no model card earlier.onnx.json: if earlier.json is its card"),
        (("broken.onnx", "."), 3, "broken.onnx cannot be used"),
        (("later.onnx", "."), 3, "later.onnx.json is the card of another model than later.onnx"),
        (("later.xml", "."), 3, "later.xml.json is the card of another model than later.xml"),
        (("fruits.onnx", "nowhere"), 3, "There is no folder, video or camera nowhere"),
        (("half.xml", "."), 3, "half.xml cannot be used (Start-end tags mismatch at offset"),
        (("fruits.onnx", "alone.onnx"), 3, "cannot be opened as a video: is it one, and whole?"),
        (("fruits.onnx", "half.mp4"), 3, "half.mp4 cannot be opened as a video: is it one, and whole?"),
        (("fruits.onnx", "93"), 3, "93 cannot be opened as a camera: is it connected"),
        (("fruits.onnx", "99999999999"), 3, "There is no folder, video or camera 99999999999"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    exported: Path, robot: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    for file in (exported, card_beside(exported)):
        shutil.copy(file, tmp_path)
    (tmp_path / "alone.onnx").write_bytes(b"none")
    (tmp_path / "earlier.onnx").write_bytes(b"none")
    shutil.copy(card_beside(exported), tmp_path / "earlier.json")
    (tmp_path / "broken.onnx").write_bytes(b"none")
    shutil.copy(card_beside(exported), tmp_path / "broken.onnx.json")
    shutil.copy(exported, tmp_path / "later.onnx")
    write_graph(tmp_path / "later.xml", "before")
    later = json.dumps(json.loads(card_beside(exported).read_text()) | {"digest": "later"})
    for name in ("later.onnx", "later.xml"):
        card_beside(tmp_path / name).write_text(later)
    shutil.copy(card_beside(exported), tmp_path / "half.xml.json")
    (tmp_path / "half.xml").write_text('<?xml version="1.0"?><net name="fruits" version="11"><layers>')
    writer = cv2.VideoWriter(str(tmp_path / "half.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    os.truncate(tmp_path / "half.mp4", 300)  # its table of contents is at its end
    done = subprocess.run(
        command(*arguments), env=robot, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"), [(("",), "the path is empty"), ((".", "--threads", "99999999999"), "1<=x<=1024")]
)
def test_a_flag_or_a_source_that_cannot_be_is_said_before_the_model_is_read(
    robot: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    done = subprocess.run(
        command("gone.onnx", *arguments), env=robot, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("fit", "shape"), [(Fit.STRETCH, (64, 64, 3)), (Fit.CROP, (48, 48, 3)), (Fit.PAD, (64, 64, 3))]
)
def test_frames_of_a_video_are_squares_as_pictures_are(fit: Fit, shape: tuple[int, ...], tmp_path: Path) -> None:
    video = tmp_path / "wide.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 48))
    writer.write(np.full((48, 96, 3), (0, 0, 250), np.uint8))  # red, as OpenCV has it
    writer.release()
    (frame,) = frames(str(video), Look(64, fit, None))
    assert isinstance(frame.picture, np.ndarray) and frame.picture.shape == shape
    middle = frame.picture[shape[0] // 2, shape[1] // 2].astype(int)
    assert middle[0] > 200 and middle[1:].max() < 50


def test_frames_of_a_video_without_an_even_rate_are_taken_by_its_own_times(tmp_path: Path) -> None:
    video = tmp_path / "phone.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for number in range(20):
        writer.write(np.full((64, 64, 3), 12 * number, np.uint8))
    writer.release()
    data = bytearray(video.read_bytes())
    at = data.index(b"stts")  # how long frames last: after the tenth, a second each
    (lasts,) = struct.unpack_from(">I", data, at + 16)
    data[at + 8 : at + 20] = struct.pack(">5I", 2, 10, lasts, 10, 10 * lasts)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        place = data.index(name) - 4
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + 8)
    for name, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20), (b"elst", 12)):
        place = data.index(name) + offset
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] * 11 // 2)
    video.write_bytes(data)
    found = list(frames(str(video), Look(64, Fit.STRETCH, 1)))
    assert [frame.name for frame in found] == [f"{second}.000" for second in range(11)]
    grey = [round(float(np.mean(frame.picture)) / 12) for frame in found if isinstance(frame.picture, np.ndarray)]
    assert grey == [0, *range(10, 20)]


@pytest.mark.parametrize("share", [0.5, 1])
def test_a_video_that_was_cut_says_so_at_its_end(
    exported: Path, robot: dict[str, str], tmp_path: Path, share: float
) -> None:
    """It ended as a whole one does."""
    video = tmp_path / "belt.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 64))
    for frame in np.random.default_rng(1).integers(0, 255, (20, 64, 64, 3), np.uint8):
        writer.write(frame)
    writer.release()
    os.truncate(video, int(video.stat().st_size * share))
    ended = subprocess.run(
        command(exported, video, "--rate", 1), env=robot, capture_output=True, text=True, timeout=60, check=False
    )
    last = json.loads(ended.stdout.splitlines()[-1])
    if share == 1:
        assert ended.returncode == 0 and (last["frame"], last.get("reason")) == ("3.000", None)
    else:
        assert ended.returncode == 1 and last["reason"] == "truncated"
        assert re.fullmatch(r"the video ends after (1\.\d|2\.0) s, and says that it lasts 4\.0 s: .*", last["detail"])
