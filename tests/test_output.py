"""The output's datasets change only by whole commits, whoever dies in between."""

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchard.errors import OutputLocked, StorageError, UsageError
from orchard.files import DataFile, digest_of, parquet_bytes, part
from orchard.layout import COMMITS, HEAD, REJECTED, SUSPECT_LIST, Dataset
from orchard.output import Output
from orchard.storage import S3Options, Storage


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, S3Options]:
    """An empty output in a folder, and one on a real S3 server."""
    if request.param == "folder":
        return str(tmp_path / "out"), S3Options()
    server = request.getfixturevalue("s3_server")
    return f"s3a://{server.bucket()}/out", server.options


def rows(*paths: str) -> pa.Table:
    return pa.table({"path": paths, "reason": ["empty"] * len(paths), "detail": [""] * len(paths)}, schema=REJECTED)


def paths_in(output: Output) -> list[str]:
    return sorted(output.read(Dataset.REJECTED, ["path"], REJECTED)["path"].to_pylist())


def files_under(output: Output, prefix: str) -> list[str]:
    return sorted(entry.key for entry in output.storage.list(prefix))


def test_staged_rows_are_seen_only_after_their_commit(place: tuple[str, S3Options]) -> None:
    output = Output(*place)
    with output.writing():
        file = output.stage(Dataset.REJECTED, rows("a", "b"))
        assert files_under(output, "rejected/") == []
        output.commit({Dataset.REJECTED: [file]})
        assert files_under(output, "rejected/") == [file.name]
    again = Output(*place)
    assert paths_in(again) == ["a", "b"]
    assert again.rows(Dataset.REJECTED) == 2


OTHERS = ("model/weights.h5", "features/mine.parquet", "reduced_csv/year=2025/a.csv", "report.html", "run.json")


@pytest.mark.parametrize("name", OTHERS)
def test_where_files_of_others_lie_nothing_is_begun(place: tuple[str, S3Options], name: str) -> None:
    """They would be mixed with the output's, overwritten by them, or deleted as the leftovers of a run."""
    output = Output(*place)
    output.storage.write(name, b"theirs")
    output.storage.write("logs/app.log", b"theirs")  # a run's log is in a folder of its own there
    said = f"already holds {name if '/' not in name else name.partition('/')[0] + '/'}, and no log says"
    with pytest.raises(UsageError, match=said), output.writing():
        pass
    if "/" in name:
        with pytest.raises(UsageError, match=said), output.writing(unchecked=True):
            pass
    assert output.storage.read(name) == output.storage.read("logs/app.log") == b"theirs"


def test_what_readers_skip_and_what_is_empty_is_in_nobodys_way(place: tuple[str, S3Options]) -> None:
    output = Output(*place)
    for name in ("features/.DS_Store", "model/.gitkeep", "features/.ipynb_checkpoints/a.parquet", "photos/a.jpg"):
        output.storage.write(name, b"theirs")
    output.storage.write("run.json", b"")  # made by the shell of `orchard run … --output OUT --json > OUT/run.json`
    with output.writing():
        output.commit({Dataset.REJECTED: [output.stage(Dataset.REJECTED, rows("a"))]})
    assert paths_in(output) == ["a"]


def test_what_an_output_without_its_log_has_left_may_be_started_over(place: tuple[str, S3Options]) -> None:
    output = Output(*place)
    left = (part(Dataset.FEATURES), f"model/{digest_of(b'')}/manifest.json", "model/current.json", "report.html")
    for name in (*left, SUSPECT_LIST):
        output.storage.write(name, b"left")
    with (
        pytest.raises(UsageError, match=r"already holds features/, model/, report\.html, and no log"),
        output.writing(),
    ):
        pass
    with output.writing(unchecked=True):
        output.start_over({}, add={})
    assert not any(output.storage.exists(name) for name in left)
    assert output.storage.exists(SUSPECT_LIST)  # people may have written into it: the review looks


def test_files_of_attempts_that_were_not_committed_are_removed(place: tuple[str, S3Options]) -> None:
    output = Output(*place)
    with output.writing():
        kept = output.stage(Dataset.REJECTED, rows("a"))
        output.stage(Dataset.REJECTED, rows("a"))  # a speculative attempt at the same work
        output.commit({Dataset.REJECTED: [kept]})
    assert files_under(output, "_orchard/staging/") == []
    assert files_under(output, "rejected/") == [kept.name]


def test_a_commit_can_replace_a_dataset_and_remember_properties(place: tuple[str, S3Options]) -> None:
    output = Output(*place)
    with output.writing():
        output.commit({Dataset.REJECTED: [output.stage(Dataset.REJECTED, rows("old"))]}, properties={"a": 1, "b": 2})
        new = output.stage(Dataset.REJECTED, rows("new"))
        output.commit({Dataset.REJECTED: [new]}, replace=[Dataset.REJECTED], properties={"b": None, "c": [3]})
    again = Output(*place)
    assert paths_in(again) == ["new"]
    assert [again.property(name) for name in "abc"] == [1, None, [3]]
    assert files_under(again, "rejected/") == [new.name]


def test_a_commit_that_was_cut_off_is_finished_by_the_next_writer(place: tuple[str, S3Options]) -> None:
    first = Output(*place)
    with first.writing():
        old = first.stage(Dataset.REJECTED, rows("old"))
        first.commit({Dataset.REJECTED: [old]})
        # What a driver leaves that is killed between writing the record and moving the files.
        names = [part(Dataset.REJECTED) for _ in range(3)]
        staging = "_orchard/staging/killed/"
        for name in names:
            first.storage.write(f"{staging}{name}", parquet_bytes(rows(name)))
        first.storage.move(f"{staging}{names[0]}", names[0])
        add = {"rejected": [(name, 1) for name in names]}
        record = {"run": "killed", "time": "", "staging": staging, "add": add, "remove": [old.name], "properties": {}}
        assert first.storage.create(f"{COMMITS}00000002.json", json.dumps(record).encode())
        # The rest of `with` cleans staging, which a killed driver would not do.
        first._clear_staging = lambda: None  # type: ignore[method-assign]
    second = Output(*place)
    with second.writing():
        assert files_under(second, "rejected/") == sorted(names)
        assert paths_in(second) == sorted(names)
    assert files_under(second, "_orchard/staging/") == []


@pytest.mark.parametrize("written", [b"", b"\0" * 80, b'{"format": 2, "sequence": 2, "prev'])
def test_a_record_that_was_cut_off_is_no_commit(place: tuple[str, S3Options], written: bytes) -> None:
    first = Output(*place)
    with first.writing():
        old = first.stage(Dataset.REJECTED, rows("old"))
        first.commit({Dataset.REJECTED: [old]}, properties={"a": 1})
    first.storage.write(f"{COMMITS}00000002.json", written)
    first.storage.write(part(Dataset.REJECTED), parquet_bytes(rows("moved")))  # by a disk that lost the record later
    assert paths_in(Output(*place)) == ["old"]
    second = Output(*place)
    with second.writing():
        assert files_under(second, "rejected/") == [old.name]
        second.commit({Dataset.REJECTED: [second.stage(Dataset.REJECTED, rows("new"))]})
    third = Output(*place)
    assert paths_in(third) == ["new", "old"]
    assert third.property("a") == 1
    assert files_under(third, COMMITS) == [f"{COMMITS}0000000{number}.json" for number in (1, 2)]


def test_a_writer_on_a_file_system_without_hard_links_may_be_killed_while_it_creates_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    class Killed(BaseException):
        pass

    def killed(descriptor: int) -> None:
        if "/commits/0" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            os.ftruncate(descriptor, 40)
            raise Killed

    monkeypatch.setattr(os, "link", no_links)
    first = Output(str(tmp_path / "out"))
    with first.writing():
        first.commit({Dataset.REJECTED: [first.stage(Dataset.REJECTED, rows("a"))]})
    with monkeypatch.context() as dying, pytest.raises(Killed), first.writing():
        file = first.stage(Dataset.REJECTED, rows("b"))
        dying.setattr(os, "fsync", killed)
        first.commit({Dataset.REJECTED: [file]})
    second = Output(str(tmp_path / "out"))
    assert paths_in(second) == ["a"]
    with second.writing():
        second.commit({Dataset.REJECTED: [second.stage(Dataset.REJECTED, rows("b"))]})
    assert paths_in(Output(str(tmp_path / "out"))) == ["a", "b"]


def test_of_two_writers_of_the_same_commit_one_fails_and_changes_nothing(place: tuple[str, S3Options]) -> None:
    slow = Output(*place)
    with slow.writing():
        fast = Output(*place)
        fast._lease = slow._lease  # as if the lock had failed
        fast.commit({Dataset.REJECTED: [fast.stage(Dataset.REJECTED, rows("fast"))]})
        with pytest.raises(OutputLocked, match="Another run has written"):
            slow.commit({Dataset.REJECTED: [slow.stage(Dataset.REJECTED, rows("slow"))]})
    assert paths_in(Output(*place)) == ["fast"]


def test_committing_without_the_lock_is_refused(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    with pytest.raises(OutputLocked):
        output.commit({}, properties={"a": 1})
    assert Output(str(tmp_path)).is_empty


def test_a_committed_file_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    with output.writing():
        file = output.stage(Dataset.REJECTED, rows("a"))
        output.commit({Dataset.REJECTED: [file]})
    (tmp_path / file.name).unlink()
    with pytest.raises(StorageError, match=file.name), Output(str(tmp_path)).writing():
        pass


def test_any_parquet_reader_sees_the_committed_rows(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    with output.writing():
        output.commit({Dataset.REJECTED: [output.stage(Dataset.REJECTED, rows("a", "b"))]})
        output.stage(Dataset.REJECTED, rows("c"))
        assert sorted(pq.read_table(tmp_path / "rejected")["path"].to_pylist()) == ["a", "b"]


def test_a_data_file_is_counted_by_its_rows(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    with output.writing():
        file = output.stage(Dataset.REJECTED, rows("a", "b", "c"))
        (staged,) = files_under(output, output.staging)
        data = output.storage.read(staged)
        assert file == DataFile(staged.removeprefix(output.staging), 3, len(data), digest_of(data))


def _hold_and_die(folder: str, ready: "multiprocessing.synchronize.Event") -> None:
    context = Output(folder).writing()
    context.__enter__()
    ready.set()
    multiprocessing.Event().wait(60)


def test_a_second_writer_is_told_who_writes_and_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    holder = spawn.Process(target=_hold_and_die, args=(str(tmp_path), ready))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(OutputLocked, match=f"process {holder.pid}"), Output(str(tmp_path)).writing():
            pass
    finally:
        holder.kill()
        holder.join()
    with Output(str(tmp_path)).writing():
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StorageError("the disk is full")])
def test_what_comes_between_a_commit_and_its_files_loses_nothing(
    place: tuple[str, S3Options], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A signal, an eviction or a storage error while files are moved: the commit holds, and is finished."""
    output = Output(*place)
    with pytest.raises(type(error)), output.writing():
        files = [output.stage(Dataset.REJECTED, rows(path)) for path in "abc"]
        moved: list[str] = []

        def move(self: Storage, source: str, target: str) -> None:
            moved.append(target)
            if len(moved) > 1:
                raise error
            original(self, source, target)

        original = type(output.storage).move
        monkeypatch.setattr(type(output.storage), "move", move)
        output.commit({Dataset.REJECTED: files})
    assert paths_in(Output(*place)) == ["a", "b", "c"]  # some of them are still in staging
    monkeypatch.undo()
    again = Output(*place)
    with again.writing():
        assert files_under(again, "rejected/") == sorted(file.name for file in files)
    assert files_under(again, "_orchard/staging/") == []
    assert paths_in(again) == ["a", "b", "c"]


def test_a_signal_between_a_commit_and_its_files_is_survived_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), output.writing():
        file = output.stage(Dataset.REJECTED, rows("a"))
        with monkeypatch.context() as patch:
            patch.setattr(type(output.storage), "move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            output.commit({Dataset.REJECTED: [file]})
    assert (tmp_path / file.name).exists()


def test_a_reader_whose_files_are_replaced_meanwhile_reads_the_new_ones(place: tuple[str, S3Options]) -> None:
    writer = Output(*place)
    with writer.writing():
        writer.commit({Dataset.REJECTED: [writer.stage(Dataset.REJECTED, rows("old"))]})
        reader = Output(*place)
        writer.commit({Dataset.REJECTED: [writer.stage(Dataset.REJECTED, rows("new"))]}, replace=[Dataset.REJECTED])
        assert paths_in(reader) == ["new"]


def test_a_run_that_lost_the_lock_writes_nothing_outside_commits_either(place: tuple[str, S3Options]) -> None:
    output = Output(*place)
    with output.writing():
        output.write("report.html", b"mine")
    with pytest.raises(OutputLocked):
        output.write("report.html", b"late")
    assert output.storage.read("report.html") == b"mine"


def test_a_run_that_loses_the_lock_while_files_are_moved_leaves_the_rest_to_its_successor(
    place: tuple[str, S3Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(*place)
    move = output._move

    def overtaken(names: list[str], staging: str) -> None:
        move(names, staging)
        monkeypatch.setattr(type(output._lease), "lost", True)

    monkeypatch.setattr(output, "_move", overtaken)
    with pytest.raises(OutputLocked), output.writing():
        output.commit({Dataset.REJECTED: [output.stage(Dataset.REJECTED, rows("late"))]})
    monkeypatch.undo()
    assert not output.storage.exists(HEAD)
    with Output(*place).writing():
        assert paths_in(output) == ["late"]
    assert output.storage.exists(HEAD)
