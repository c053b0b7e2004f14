"""Folders tell label and split, whatever people call them; what may not be meant so is said."""

import unicodedata

import pytest

from orchard.images.places import Places, is_ignored, places, split_named
from orchard.vocabulary import Split


def _places(*folders: str, level: int = 1) -> tuple[dict[str, tuple[str | None, str | None]], Places]:
    found = places("photos", folders, level)
    return dict(zip(folders, zip(found.labels, found.splits, strict=True), strict=True)), found


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Test"),
        ("train", "testing"),
        ("seg_train", "seg_test"),
        ("training_set", "test_set"),
        ("train_images", "test_images"),
        ("train-images", "test-images"),
        ("trainset", "testset"),
        ("TrainData", "TestData"),
        ("01_train", "02_test"),
        ("train2017", "test2017"),
        ("asl_alphabet_train", "asl_alphabet_test"),
        ("Fruits (training)", "Fruits (test)"),
        ("train", "eval"),
        ("train", "holdout"),
        ("train", "hold-out"),
        ("train", "test_old"),
        ("train_full", "test"),
        ("trainval", "test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("archive/train", "archive/test"),
    ],
)
def test_splits_are_recognised_by_any_usual_name(train: str, test: str) -> None:
    found, said = _places(*(f"{split}/{label}" for split in (train, test) for label in ("Apple", "Pear")))
    wanted = {train: "train", test: "test"}
    assert found == {
        f"{split}/{label}": (label, wanted[split]) for split in (train, test) for label in ("Apple", "Pear")
    }
    assert not said.label_warnings + said.split_warnings


def test_images_to_predict_and_of_several_fruits_are_no_class() -> None:
    found, said = _places("seg_train/seg_train/Apple", "seg_test/seg_test/Apple", "seg_pred/seg_pred")
    assert found["seg_pred/seg_pred"] == (None, "test")
    found, _ = _places("Training/Apple", "Test/Apple", "test-multiple_fruits")
    assert found["test-multiple_fruits"] == (None, "test")
    assert not said.split_warnings


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["Bus", "Car", "Train"], "taken for labels: Train;"),
        (["Car", "Test tube", "Train station"], "not taken for such: Test tube, Train station;"),
        (["Alice", "Bob", "Dev"], "not taken for such: Dev;"),
        (["Control", "Test 1", "Test 2"], "not taken for such: Test 1, Test 2;"),
        (["Car", "Testudo", "Trainer", "Validator"], None),
    ],
)
def test_labels_that_hold_such_a_word_stay_labels(classes: list[str], said: str | None) -> None:
    for above in ("", "train/", "Training/old/"):
        found, places = _places(*(above + name for name in classes))
        assert [label for label, _ in found.values()] == classes
        assert {split for _, split in found.values()} == {"train" if above else None}
        warnings = places.split_warnings
        assert (said is not None and said in warnings[0] if warnings else said is None) if not above else not warnings


def test_a_lone_folder_for_training_is_named_and_one_for_testing_never_trains() -> None:
    found, said = _places("train_images/Apple", "train_images/Pear")
    assert set(found.values()) == {("Apple", None), ("Pear", None)}
    assert "train_images" in said.split_warnings[0]
    found, _ = _places("Apple", "Pear", "test_images", "more/testset/Apple")
    assert found["test_images"] == (None, "test")
    assert found["more/testset/Apple"] == ("Apple", "test")


def test_a_folder_beside_splits_is_named() -> None:
    _, said = _places("bottle/train/good", "bottle/test/good", "bottle/ground_truth/broken")
    assert said.split_warnings == [
        "Folders beside splits that are none themselves are divided by Orchard: bottle/ground_truth; "
        "move them into a split, or out of the source, if that is not meant."
    ]


def test_splits_below_the_labels_leave_them_their_names() -> None:
    found, _ = _places("Apple/train", "Apple/test", "Pear/train", "Pear/test")
    assert list(found.values()) == [("Apple", "train"), ("Apple", "test"), ("Pear", "train"), ("Pear", "test")]
    assert _places("train", "test")[0] == {"train": (None, "train"), "test": (None, "test")}


def test_folders_of_one_name_are_one_label_with_a_warning_and_more_of_the_path_tells_them_apart() -> None:
    found, said = _places("Red/Apple", "Green/Apple", "Green/Pear")
    assert [label for label, _ in found.values()] == ["Apple", "Apple", "Pear"]
    assert said.label_warnings == [
        "2 folders became one label 'Apple': Green/Apple, Red/Apple; "
        "--label-level 2 takes one more folder of the path into the label."
    ]
    found, said = _places("Red/Apple", "Green/Apple", "Kiwi", "", level=2)
    assert [label for label, _ in found.values()] == ["Red/Apple", "Green/Apple", "Kiwi", "photos"]
    assert not said.label_warnings
    mvtec = [f"{thing}/{split}/good" for thing in ("bottle", "cable") for split in ("train", "test")]
    found, said = _places(*mvtec)
    assert "bottle/train/good, cable/train/good" in said.label_warnings[0]
    found, said = _places(*mvtec, level=2)
    assert [label for label, _ in found.values()] == ["bottle/good", "bottle/good", "cable/good", "cable/good"]
    assert not said.label_warnings
    assert not _places("Training/Apple", "Test/Apple")[1].label_warnings


def test_composed_and_decomposed_names_are_one_label() -> None:
    composed, decomposed = "Pêche", unicodedata.normalize("NFD", "Pêche")
    assert composed != decomposed
    found, said = _places(f"Training/{composed}", f"Test/{decomposed}")
    assert {label for label, _ in found.values()} == {composed}
    assert not said.label_warnings


def test_folders_of_systems_are_told_from_labels() -> None:
    ignored = [".git", ".ipynb_checkpoints", ".thumbnails", ".Trash-1000", "@eaDir", "__MACOSX", "lost+found"]
    assert all(map(is_ignored, [*ignored, "$RECYCLE.BIN"]))
    assert not any(map(is_ignored, ["Apple", "_Plum", "@home", "lost"]))


def test_values_of_a_column_name_splits() -> None:
    named = {"TRAIN": Split.TRAIN, " val ": Split.VALIDATION, "dev": Split.VALIDATION, "test set": Split.TEST}
    assert {value: split_named(value) for value in named} == named
    assert split_named("somewhere") is split_named("train station") is None
