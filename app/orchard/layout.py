"""All datasets and files of an output: place, columns, types, shapes and units.

Features are stored as ``list<float>`` of one length per output, so that any Parquet reader takes them.
``path`` is unique within each dataset but that of views.
"""

import re
from enum import StrEnum
from typing import NotRequired, Required, TypedDict

import pyarrow as pa

from orchard.vocabulary import Split

COMMITS = "_orchard/commits/"
"""The log: see `orchard.output`."""
HEAD = "_orchard/head.json"
"""Number of the last commit whose changes are complete."""
PARTS = "_orchard/parts/"
"""Files that a model is made of, before there is a classifier."""
STAGING = "_orchard/staging/"
"""Files that are not committed yet, in a folder for each run."""
TUNING = "_orchard/tuning/"
"""The checkpoint of an unfinished tuning: see `orchard.tuning.stage`."""
ERASED = "_orchard/erased.json"
"""Digests of the paths of erased images, which later runs leave out: see `orchard.images.erased`."""
LOCKS = "_orchard/locks/"
"""The lock of the process that writes: see `orchard.lock`."""
LOGS = "logs/"
"""The logs of the last runs, in a folder for each: see `orchard.runlog`."""
FORMULA = r"^[=+\-@\t\r]"
"""Start of a text that a spreadsheet would run as a formula. In CSV an apostrophe precedes it, as OWASP advises."""
ESCAPED = re.compile("^'(?=" + FORMULA.removeprefix("^") + ")")
"""That apostrophe."""
METRICS, RUN, REPORT = "metrics.json", "run.json", "report.html"
COMPARISON, COMPARISON_PAGE = "compare.json", "compare.html"
"""What `orchard compare` found, in the folder that holds an output for each backbone."""
REVIEW = "review/"
SUSPECT_LIST = f"{REVIEW}suspects.csv"
"""Rows of `SUSPECTS`."""
INCOMPLETE = "_INCOMPLETE"
"""Lies in a dataset's folder while a commit replaces files there; readers of Parquet skip its name."""

MODEL = "model/"
"""The folder of models, each in a folder named by its digest; see `orchard.models`."""
CURRENT_MODEL = "model/current.json"
"""Names the folder of the current model: ``{"folder": "model/<digest>/"}``."""
# Inside a model's folder, or among the parts:
BACKBONE = "backbone"
REDUCTION = "reduction.npz"
STATISTICS = "statistics.npz"
"""Sums of the features that classifiers are fitted on, see `orchard.reduction.statistics`; not part of a model."""
TUNED = "tuned.weights.h5"
"""The weights of a tuned network, as Keras saves them; not part of a model, which has the converted network."""
TRAINED_HEAD = "head.npz"
"""The linear layer that was trained with a tuned network, see `orchard.classification.tuned_head`; not part of a
model."""
JUDGED = "judged.npz"
"""Features of a tuned network before it was also trained on held-out images, see `orchard.classification.judged`; not
part of a model."""
TO_DO_AGAIN = "listing.parquet"
"""Images whose features a tuned network has still to extract again, rows of `LISTING`; deleted afterwards."""
BACKGROUNDS = "backgrounds.npz"
"""Backgrounds for random views, see `orchard.features.backgrounds`; not part of a model."""
NOT_IN_MODELS = (STATISTICS, TUNED, TRAINED_HEAD, JUDGED, TO_DO_AGAIN, BACKGROUNDS)
LABELS = "labels.json"
CALIBRATION = "calibration.json"
FAMILIARITY = "familiarity.npz"
LINEAR_DISCRIMINANT = "linear_discriminant.npz"
CARDS = "cards.json"
KINDS = "kinds.npz"
COLUMNS = "columns.npz"
LOGISTIC_REGRESSION = "logistic_regression.npz"
TUNED_HEAD = "tuned_head.npz"
RANDOM_FOREST = "random_forest.npz"


class Dataset(StrEnum):
    """The datasets of an output; the value is the folder's name."""

    FEATURES = "features"
    VIEWS = "views"
    REJECTED = "rejected"
    INVENTORY = "inventory"
    REDUCED = "reduced"
    REDUCED_CSV = "reduced_csv"
    NEIGHBOURS = "neighbours"
    PREDICTIONS = "predictions"


EXTRACTED = (Dataset.FEATURES, Dataset.REJECTED, Dataset.INVENTORY)
"""Datasets with rows for images: each listed image is in the inventory and in one of the other two."""
FEATURIZED = (*EXTRACTED, Dataset.VIEWS)
"""Datasets that are committed, replaced and dropped together. Views are optional, and only of `VIEWED` splits."""
DERIVED = (Dataset.REDUCED, Dataset.REDUCED_CSV, Dataset.NEIGHBOURS, Dataset.PREDICTIONS)
"""Datasets that are computed from features, and dropped when these change."""
FORGOTTEN: dict[str, object] = dict.fromkeys(("reduction", "neighbours", "classification", "review", "sources"))
"""Properties of the stages that computed `DERIVED`, which are dropped with it."""


VIEWED = (Split.TRAIN, Split.VALIDATION)
"""Splits whose images have random views, as classifiers may be fitted on them."""


class Fault(StrEnum):
    """What may be wrong with an image, the values of ``suspects.fault``: the surest and gravest first."""

    SAME_IMAGE = "same_image"
    """Its bytes are those of an image under another label."""
    LABEL = "label"
    """Another label fits it better, as classifiers say that never saw it."""
    NEAR_TWIN = "near_twin"
    """It hardly differs from an image under another label."""
    OUTLIER = "outlier"
    """It is unlike the other images of its label."""
    BLURRED = "blurred"
    DARK = "dark"


NAMES = ("label", "kind")
"""The names of an image, the finest first: columns of `LISTING`, `INVENTORY`, `FEATURES` and `REDUCED`."""
LABEL_COLUMNS = "label_columns"
"""The column with the values of a manifest's further label columns, as JSON text with sorted names; null: it has none.

One column for all of them, so that a dataset has one schema whatever they are called: see `orchard.images.columns`.
"""
CARRIED = (*NAMES, LABEL_COLUMNS)
"""Columns that pass unchanged from `LISTING` to `INVENTORY`, `FEATURES` and `VIEWS`."""

# The images of a source. `version` is the ETag of an object or the modification time (ns) of a file, which differs if
# the image was replaced; null where the source does not tell.
LISTING = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64()),  # bytes; null where a manifest does not say
        pa.field("version", pa.string()),
        pa.field("label", pa.string()),  # null where the path shows none
        pa.field("kind", pa.string()),  # the coarser name above the label, where there is one
        pa.field("split", pa.string()),  # Split; null in a listing: "assign one"
        pa.field("group", pa.string()),  # images that are not independent of each other; null: of none
        pa.field(LABEL_COLUMNS, pa.string()),
        pa.field("source", pa.string()),  # which of several sources lists it, as it was given; null: there is one
    ]
)

FEATURES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("kind", pa.string()),
        pa.field(LABEL_COLUMNS, pa.string()),
        pa.field("split", pa.string()),
        pa.field("width", pa.int32()),  # pixels, after EXIF orientation
        pa.field("height", pa.int32()),
        pa.field("features", pa.list_(pa.float32())),  # shape (n_features,)
    ]
)

# Random views of images of `VIEWED`, which classifiers are fitted on beside the images: see `orchard.features.views`.
VIEWS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # of the image; path and view are unique
        pa.field("view", pa.int32()),  # from 0
        pa.field("label", pa.string()),
        pa.field("kind", pa.string()),
        pa.field(LABEL_COLUMNS, pa.string()),
        pa.field("split", pa.string()),  # of the image
        pa.field("features", pa.list_(pa.float32())),  # shape (n_features,)
    ]
)

REJECTED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # Reason
        pa.field("detail", pa.string()),
    ]
)

# One row for every image that was worked on: with it alone the driver knows what is done, what was replaced,
# how many there are of each label, and which are the same bytes; it never reads features.
INVENTORY = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64()),  # bytes read; null for what could not be read
        pa.field("version", pa.string()),
        pa.field("label", pa.string()),
        pa.field("kind", pa.string()),
        pa.field(LABEL_COLUMNS, pa.string()),
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),  # as in a listing, and so is the source
        pa.field("source", pa.string()),
        pa.field("digest", pa.string()),  # BLAKE2b, 128 bits, hex, of the file's bytes; null if unread
        pa.field("featurized", pa.bool_()),  # false: the image is in rejected/
        pa.field("format", pa.string()),  # such as JPEG, by content; this and the next two are null if not featurized
        pa.field("brightness", pa.float32()),  # 0..1, see `orchard.images.quality`
        pa.field("sharpness", pa.float32()),  # 0 and up, likewise
    ]
)

REDUCED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("split", pa.string()),
        pa.field("pca_features", pa.list_(pa.float32())),  # shape (k,)
    ]
)

NEIGHBOURS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("neighbours", pa.list_(pa.string())),  # paths of the nearest training images, the nearest first
        pa.field("similarities", pa.list_(pa.float32())),  # cosines, falling; of a length with `neighbours`
    ]
)

PREDICTIONS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("classifier", pa.string()),  # path is unique for each classifier
        pa.field("predicted", pa.string()),
        pa.field("confidence", pa.float32()),  # 0..1: the probability of `predicted`; calibrated for linear classifiers
        pa.field("familiarity", pa.float32()),  # 0..1; null for the forest, as are answer and confidence of the kind
        pa.field("answer", pa.string()),  # Answer
        pa.field("kind", pa.string()),  # the true one
        pa.field("predicted_kind", pa.string()),  # null where the model knows no kinds
        pa.field("kind_confidence", pa.float32()),  # 0..1
        # Of further columns, by linear classifiers alone: JSON text, null where the model knows none.
        pa.field(LABEL_COLUMNS, pa.string()),  # the true values
        pa.field("predicted_columns", pa.string()),  # the likeliest value of each column
        pa.field("column_confidences", pa.string()),  # of each 0..1, calibrated
    ]
)


# What `--corrections` takes back: see `orchard.images.corrections`.
SUSPECTS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # unique
        pa.field("label", pa.string()),
        pa.field("suggested", pa.string()),  # the label that fits best; null where none is suggested
        pa.field("corrected", pa.string()),  # null: for whoever corrects to fill in
        pa.field("drop", pa.string()),  # likewise: yes, to leave the image out
        pa.field("fault", pa.string()),  # Fault
        pa.field("score", pa.float32()),  # 0..1, the higher the worse; comparable for one fault only
        pa.field("also", pa.string()),  # its other faults, separated by blanks
        pa.field("split", pa.string()),
        pa.field("like", pa.string()),  # path of the image that it is a twin of
    ]
)

SCHEMAS = {
    Dataset.FEATURES: FEATURES,
    Dataset.VIEWS: VIEWS,
    Dataset.REJECTED: REJECTED,
    Dataset.INVENTORY: INVENTORY,
    Dataset.REDUCED: REDUCED,
    Dataset.NEIGHBOURS: NEIGHBOURS,
    Dataset.PREDICTIONS: PREDICTIONS,
}
"""The Parquet datasets; ``reduced_csv`` holds the rows of ``reduced``."""

ADDED = frozenset(
    {"kind", "group", "source", "format", "brightness", "sharpness"}
    | {LABEL_COLUMNS, "predicted_columns", "column_confidences"}
)
"""Columns that earlier versions did not write: where a file lacks one, it is read as nulls."""


class RejectedKind(TypedDict):
    """A group of rejected images that are alike, and what to do about them."""

    reason: str  # Reason
    kind: str  # what they look like, such as "a Git LFS pointer"
    images: int
    remedy: str  # what to do; empty where nothing is known


class ImageCounts(TypedDict):
    """``metrics.images``: listed = featurized + rejected, always."""

    listed: int
    featurized: int
    rejected: int
    ignored: int  # files that are no images by name and by content, such as LICENSE
    decoded: int  # by this run; 0 if nothing was new
    rejected_by_reason: dict[str, int]
    rejected_kinds: NotRequired[list[RejectedKind]]  # the commonest, the most frequent first


class PcaMetrics(TypedDict):
    """``metrics.pca``."""

    k: int
    explained_variance: float  # share of the total, 0..1, that the k components hold
    explained_variance_ratio: list[float]  # of every component, not only the first k; falling; sums to 1
    n_features: int
    zero_variance_features: int
    train_rows: int  # what scaler and PCA were fitted on


Interval = tuple[float, float]
"""Bounds of a share with 95 % confidence, see `orchard.classification.intervals`; in JSON a list."""


class ClassMetrics(TypedDict):
    """One row of the per-class report."""

    precision: float
    recall: float
    f1: float
    support: int  # test images of the class


class FittedBy(StrEnum):
    """What fitted a classifier."""

    SUMS = "class sums"
    """Orchard, from the sums of the reduction's pass."""
    SCIPY = "SciPy"
    """In the driver, see `orchard.classification.multinomial`."""
    SCIKIT_LEARN = "scikit-learn"
    """In the driver."""
    TUNING = "tuning"
    """The process that tuned the network, and Orchard, see `orchard.classification.tuned_head`."""
    SPARK_ML = "Spark ML"
    """In the executors, as the driver could not hold the rows."""


class ClassifierMetrics(TypedDict):
    """``metrics.classifiers.<name>``: measured on the test split."""

    accuracy: float
    accuracy_interval: NotRequired[Interval]
    macro_precision: float  # macro: each class counts alike; weighted: as its share of the test images
    macro_recall: float
    macro_f1: float
    weighted_precision: NotRequired[float]
    weighted_recall: NotRequired[float]
    weighted_f1: NotRequired[float]
    test_rows: int
    train_rows: int
    confusion: dict[str, dict[str, int]]  # true label -> predicted label -> test images, where there are any
    confusion_left_out: int  # test images in pairs beyond the most frequent 10,000; predictions/ has them all
    per_class: dict[str, ClassMetrics]  # of every label that is true or predicted, sorted
    seconds: float
    fitted_by: NotRequired[str]  # FittedBy
    by_kind: NotRequired["ClassifierMetrics"]  # the same of kinds, where there are any


class Baseline(TypedDict):
    """Accuracy of always answering the most frequent training label."""

    label: str
    accuracy: float
    accuracy_interval: NotRequired[Interval]


class ColumnMetrics(TypedDict):
    """``metrics.columns.<name>``: a further label column, of which images without a value in it are no part."""

    values: dict[str, dict[str, int]]  # value -> split -> images featurized; "" for images without one
    held_out: NotRequired[int]  # images that it was calibrated on; this and the next two where there is a classifier
    temperature: NotRequired[float]
    threshold: NotRequired[float]  # below it the value is not sure
    baseline: NotRequired[Baseline]  # this and the next one where test images have values
    test: NotRequired[ClassifierMetrics]  # of the images that have a label, too


class ReliabilityBin(TypedDict):
    """A bin of the reliability diagram that is not empty."""

    confidence: float  # mean of the bin, 0..1
    accuracy: float
    images: float  # share of all


FAMILIARITY_BINS = 50
"""Of histograms of familiarity, from 0 to 1."""


class UnknownMetrics(TypedDict):
    """``metrics.unknown``: of images that are none of the labels."""

    source: str
    images: int  # that could be read
    rejected: int
    sure: int  # wrongly
    not_sure: int
    unknown: int
    familiarity: list[int]  # images in `FAMILIARITY_BINS` bins
    auroc: float | None  # of familiarity, against the test images; null if there are none of either


class CoveragePoint(TypedDict):
    """A point of the curve of accuracy by coverage: only the most certain test images are answered."""

    confidence: float  # of the least certain of them
    answered: float  # share of the test images
    images: int
    right: int


class CalibrationMetrics(TypedDict):
    """``metrics.calibration``: of the classifier that answers, fitted on held-out images, measured on test images."""

    split: str  # of the held-out images: validation, or train
    rows: int  # number of held-out images
    temperature: float  # scores are divided by it
    threshold: float  # below it the answer is "not sure"
    familiarity_threshold: float  # below it the answer is "unknown"
    sure_at: float  # wanted share of sure answers that are right
    test_rows: int
    error_before: float  # expected calibration error, 0..1
    error_after: float
    reliability_before: list[ReliabilityBin]
    reliability_after: list[ReliabilityBin]
    accuracy: float  # of all answers
    accuracy_interval: NotRequired[Interval]
    accuracy_sure: float | None  # of the sure ones; null if there are none
    accuracy_sure_interval: NotRequired[Interval | None]
    share_sure: float
    share_unknown: float
    familiarity: list[int]  # test images in `FAMILIARITY_BINS` bins
    coverage: list[CoveragePoint]  # the most certain images first


class Trial(TypedDict):
    """The result of a linear classifier on held-out images, fitted on the other images."""

    accuracy: float
    log_loss: float


class Selection(TypedDict):
    """``metrics.selection``: which linear classifier answers, and why."""

    split: str  # as in CalibrationMetrics
    rows: int  # number of held-out images
    trials: dict[str, Trial]
    chosen: str
    why: str  # a sentence
    fitted_again: NotRequired[bool]  # whether all were fitted again, on held-out images too


class Leak(TypedDict):
    """Byte-identical images on both sides of the split."""

    test_rows: int
    test_rows_with_twin_in_train: int
    duplicate_rows: int  # images whose bytes another image has too, in any split


class Twins(TypedDict):
    """Two images of the same bytes under two labels."""

    paths: list[str]
    labels: list[str]


class Conflicts(TypedDict):
    """``metrics.conflicts``: images whose bytes another image has under another label."""

    images: int
    pairs: list[Twins]  # the first few


class Suspect(TypedDict):
    """An image that may be at fault, as in `SUSPECTS`."""

    path: str
    label: str | None
    suggested: str | None
    fault: str  # Fault
    score: float
    also: list[str]  # Fault
    split: str
    like: str | None


class ClusterMetrics(TypedDict):
    """``metrics.review.clusters``: groups of images that are linked by near twins."""

    clusters: int
    images: int  # in clusters
    largest: list[list[str]]  # the first paths of the largest ones


class ReviewMetrics(TypedDict):
    """``metrics.review``: which images may be at fault."""

    judged: int  # labelled images whose label was judged; 0 where there are too few to judge by
    images: int  # that may be at fault
    faults: dict[str, int]  # Fault -> images, the most suspect 10,000 of each at most
    first: list[Suspect]  # the first 200, every fault in turn
    clusters: NotRequired[ClusterMetrics]  # where nearest images are known


class DataMetrics(TypedDict):
    """``metrics.data``: formats, shapes and sizes of the featurized images."""

    formats: dict[str, int]  # the most frequent first; images that an early version featurized are not counted
    shapes: dict[str, int]  # landscape, portrait, square
    pixels: dict[str, int]  # lower bound of the width times height, a power of two, as text -> images
    smallest: list[int]  # width and height of the image of the fewest pixels
    largest: list[int]
    labels: int
    images_a_label: dict[str, float]  # fewest, median, most; empty without labels


class CorrectionMetrics(TypedDict):
    """``metrics.corrections``: what the list of corrections changed."""

    relabelled: int
    dropped: int


class TuningMetrics(TypedDict):
    """``metrics.tuning``: how the network's last blocks were trained."""

    images: int  # number of training images
    held_out: int  # number of images that epochs were measured on
    views: int  # of each image; an epoch takes one of them
    epochs: int  # that were trained
    epochs_asked: int
    best_epoch: int  # the epoch whose weights were kept; 0: the weights before tuning
    joined: NotRequired[int]  # number of last epochs, which trained on the held-out images too
    # Accuracy and loss on held-out images before tuning and after each epoch; of several branches, of the first.
    history: list[dict[str, float]]
    branches: NotRequired[int]  # see `orchard.features.branches`; absent if there could be but one
    branches_asked: NotRequired[int]
    together: NotRequired[dict[str, float]]  # accuracy and loss of all branches
    seconds: float
    before: NotRequired[dict[str, float]]  # classifier -> accuracy on test images before tuning


class CardMetrics(TypedDict):
    """``metrics.cards``: number and languages of the cards about labels and kinds."""

    cards: int
    languages: list[str]  # sorted
    labels_without: list[str]  # labels of images that have no card, and whose kind has none, sorted


class GroupSource(StrEnum):
    """The source of groups."""

    COLUMN = "column"
    """A column of the manifest."""
    PATTERN = "pattern"
    """A regular expression on paths."""
    FRAMES = "frames"
    """Guessed from the numbers in files' names, see `orchard.images.groups.frame_names`."""


class Group(TypedDict):
    """A group, as an example."""

    name: str
    images: int
    paths: list[str]  # the first few


class Grouping(TypedDict):
    """``metrics.grouping``: how images were grouped."""

    by: str  # the setting
    source: str  # GroupSource
    groups: int
    ungrouped: int  # images without a group; each is a group of its own
    examples: list[Group]  # the largest


class GroupSplit(TypedDict):
    """``metrics.group_split``: groups straddle the split, and everything was fitted again with whole groups."""

    groups: int
    train_rows: int
    test_rows: int
    k: int
    baseline: Baseline
    classifiers: dict[str, ClassifierMetrics]


class Histogram(TypedDict):
    """Images by similarity, in bins of equal width. Values outside are in the first or last bin."""

    low: float
    high: float
    images: list[int]


class NeighbourMetrics(TypedDict):
    """``metrics.neighbours``: similarity of test images to training images."""

    exact: bool  # false: the search was approximate
    recall: float | None  # of the approximate search: share of true nearest neighbours found, on a sample
    train_rows: int
    test_rows: int
    threshold: float | None  # cosine from which two images are near twins; null if there is one label only
    near_twins: int  # test images with a near twin in training
    near_other_labels: int  # training images as near to one of another label
    test: Histogram  # test images by the similarity of the nearest training image
    other_labels: Histogram  # training images by the similarity of the nearest one of another label


class ApartMetrics(TypedDict):
    """A classifier on the test images that have no near twin in training, and on those that do."""

    test_rows: int
    accuracy: float | None  # null: there are none
    accuracy_interval: Interval | None
    test_rows_near: int
    accuracy_near: float | None
    accuracy_near_interval: Interval | None


class SourceAccuracy(TypedDict):
    """A classifier on the test images of one source."""

    test_rows: int
    accuracy: float
    accuracy_interval: Interval


class SourceMetrics(TypedDict):
    """``metrics.sources.<source>``: one of several sources."""

    images: dict[str, int]  # split -> images featurized
    rejected: int
    weight: float  # of an image in fitting classifiers
    classifiers: dict[str, SourceAccuracy]  # of those that have test images of it


class Measure(StrEnum):
    """The images that a headline was measured on, the strictest choice first."""

    GROUPS = "groups"
    """Everything fitted again with whole groups on one side of the split."""
    APART = "without_near_twins"
    """Test images without a near twin in training."""
    ALL = "all"
    """All test images."""


class Headline(TypedDict):
    """``metrics.headline``: the accuracy to quote and to compare."""

    measure: str  # Measure
    classifier: str
    accuracy: float
    accuracy_interval: Interval
    test_rows: int


class Metrics(TypedDict):
    """``metrics.json``."""

    model: NotRequired[str]  # the folder of the model that they are about
    images: ImageCounts
    labels: dict[str, dict[str, int]]  # label -> split -> images featurized
    kinds: NotRequired[dict[str, dict[str, int]]]  # likewise, where there are kinds; "" for images without one
    sources: NotRequired[dict[str, SourceMetrics]]  # where there are several
    columns: NotRequired[dict[str, ColumnMetrics]]  # by name, where there are further label columns
    cards: NotRequired[CardMetrics]
    pca: NotRequired[PcaMetrics]
    baseline: NotRequired[Baseline]
    classifiers: NotRequired[dict[str, ClassifierMetrics]]
    selection: NotRequired[Selection]
    calibration: NotRequired[CalibrationMetrics]
    unknown: NotRequired[UnknownMetrics]
    leak: NotRequired[Leak]
    conflicts: NotRequired[Conflicts]
    grouping: NotRequired[Grouping]
    data: NotRequired[DataMetrics]
    review: NotRequired[ReviewMetrics]
    corrections: NotRequired[CorrectionMetrics]
    tuning: NotRequired[TuningMetrics]
    group_split: NotRequired[GroupSplit]
    neighbours: NotRequired[NeighbourMetrics]
    without_near_twins: NotRequired[dict[str, ApartMetrics]]  # by classifier
    headline: NotRequired[Headline]
    warnings: list[str]  # one sentence each
    seconds: dict[str, float]  # list, start, extract, reduce, classify, review, report, total
    images_per_second: float  # decoded / seconds of extraction; of the run that decoded last


class Fitting(TypedDict):
    """``run.fitting``: the images that classifiers were chosen, calibrated and fitted on; never test images."""

    held_out: str  # the images that they were chosen and calibrated on
    held_out_rows: int
    fitted_again_on: int  # number of training images, held-out ones included
    answers: str  # the linear classifier that answers
    why: str


class Usage(TypedDict, total=False):
    """The machine time of a run, or of a part of it."""

    core_hours: Required[float]  # hours that Spark's cores were held, and the driver's while it tuned
    cost: float  # by the setting core_hour_price, in its currency
    energy_kwh: float  # by the setting core_watts


class Share(TypedDict):
    """A share of the work of an extraction."""

    tasks: int
    images: int
    seconds: float  # total of the tasks
    slowest_seconds: float  # of the slowest task


class ExecutorShare(Share):
    """The share of an executor; on a local master there is one, this machine."""

    executor: str
    workers: int  # Python processes


class WorkerShare(Share):
    """The share of a worker, a Python process."""

    executor: str
    worker: int  # its number in the run


class SlowTask(TypedDict):
    """One of the slowest tasks."""

    executor: str
    worker: int
    images: int
    seconds: float
    after: float  # seconds from the first task's start to its own


class Sharing(TypedDict):
    """``run.sharing``: how the last extraction was divided among workers."""

    tasks: int
    images: int
    workers: int
    worker_memory_bytes: int  # peak of the largest worker
    median_task_seconds: float
    by_executor: list[ExecutorShare]  # the longest total first
    by_worker: list[WorkerShare]  # likewise
    slowest: list[SlowTask]  # the slowest first
    bin_seconds: float  # of `at_work`
    at_work: list[float]  # mean number of running tasks in each bin of time


class StagePlan(TypedDict):
    """The expected time of a stage and, after a run, the real one."""

    stage: str
    seconds: float | None  # null: there is no estimate
    low: float | None  # lower bound of the expected range
    high: float | None
    core_seconds: float | None  # cores that are held, times seconds
    after: str  # source of the estimate, see `orchard.planning.costs.Source`
    took: NotRequired[float]  # seconds; of a run


class Sizes(TypedDict, total=False):
    """Peak memory and disk, in bytes."""

    worker_memory: int  # of each worker
    driver_python: int
    driver_jvm: int  # where Spark starts
    disk: int  # of the output
    tuning_disk: int  # of the driver's cache, while a network is tuned


class Planned(TypedDict):
    """``run.plan``: the plan, as made when the first tasks were done, beside the real figures."""

    images: int  # number of images to featurize
    measured_on: int  # number of images that the time of an image was measured on
    stages: list[StagePlan]
    sizes: Sizes  # expected
    took: Sizes
    core_hours: float  # expected, of all stages with an estimate
    took_core_hours: float


class Run(TypedDict):
    """``run.json``: the settings, versions and machine of the run that gave the metrics."""

    run_id: str
    started: str  # ISO 8601, UTC
    finished: str
    source: str  # several ones with " + " between them
    sources: NotRequired[list[str]]  # where there are several
    output: str
    settings: dict[str, object]
    backbone: dict[str, object]  # name, input_size, n_features, parameters, weights, engine, precision
    fitting: Fitting | None  # null where no classifier answers
    versions: dict[str, str]  # package -> version
    machine: dict[str, object]  # cores, memory_bytes, cpu, spark_master
    usage: dict[str, Usage]  # of this run: stage -> what it used; and in total
    plan: NotRequired[Planned]  # of the run that extracted last
    sharing: NotRequired[Sharing]  # of the run that extracted last
