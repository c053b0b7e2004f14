"""The stage from ``features/`` to ``reduced/`` and ``reduced_csv/``: one pass to fit, one to transform."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from orchard.datasets import Mark, balance, batches, gathered, list_column, matrix, with_marks
from orchard.errors import InputError, TrainingError
from orchard.features.regrouping import group_key, source_key
from orchard.files import DataFile, parquet_bytes, part, stage_file
from orchard.images.columns import names_in, values_of
from orchard.images.places import source_name
from orchard.images.splits import hold_out
from orchard.inference.calibration import LEAST_ROWS
from orchard.layout import (
    DERIVED,
    FEATURES,
    FORGOTTEN,
    FORMULA,
    INVENTORY,
    LABEL_COLUMNS,
    NAMES,
    REDUCED,
    REDUCTION,
    STATISTICS,
    VIEWED,
    VIEWS,
    Dataset,
    PcaMetrics,
)
from orchard.output import NO_MODEL, Output
from orchard.reduction.pca import Projection, Reduction
from orchard.reduction.statistics import Role, Statistics, Sums
from orchard.stages import Stage, feature_names, key_of
from orchard.storage import Storage
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.progress import Advance
    from orchard.settings import Settings
    from orchard.spark.session import Session
    from orchard.workers import Shared, Workers

VERSION = 3
"""Raise it when a change makes the same features give another reduction: older results are then computed again."""

SUMMED_ROWS = 10_000
"""Rows that a task sums up, at least, as long as each worker has a task: their sums take as long to send and to merge
as 700 rows take to sum up."""

PART_ROWS = 16_384
"""Rows of a reduced file, at most: with 300 components 20 MB of Parquet and 25 MB of CSV, which a worker holds."""

_COLUMNS = ["path", *NAMES, "split"]

Roles = Mapping[str, NDArray[np.int8]]
"""Name of a features file -> the `Role` of each of its rows."""


@dataclass(frozen=True)
class ReductionResult:
    """The results of the stage."""

    reduction: Reduction
    metrics: PcaMetrics
    warnings: list[str]


def stage_of(output: Output, settings: Settings) -> Stage:
    """Return the stage. Its key is made of the features, their groups, and the settings of the reduction.

    Its work raises InputError if nothing was extracted to the output.
    """
    variance = settings.variance if settings.components is None else None
    weights = {source_name(source): weight for source, weight in settings.source_weight.items() if weight != 1}
    key = key_of(
        VERSION,
        feature_names(output),
        settings.variance,
        settings.components,
        settings.seed,
        group_key(output),
        *(["validation"] if settings.fit_validation else []),
        *([weights, source_key(output)] if weights else []),
    )

    def work(session: Session, progress: Advance) -> None:
        if not output.rows(Dataset.INVENTORY):
            raise InputError(f"{output.url} holds no features: extract some first.")
        run(
            session,
            output,
            key=key,
            seed=settings.seed,
            variance=variance,
            components=settings.components,
            fit_validation=settings.fit_validation,
            weights=weights,
            progress=progress,
        )

    return Stage("reduce", "reduction", key, work, output.rows(Dataset.FEATURES))


def run(session: Session, output: Output, *, key: str, **options: Any) -> None:
    """Run `reduce`. If the features cannot be reduced, warn instead, and make no model."""
    try:
        if not output.rows(Dataset.FEATURES):
            raise InputError(f"{output.url} holds no features: look into its rejected images.")
        reduce(session.workers, output, key=key, **options)
    except (TrainingError, InputError) as error:
        output.commit(
            {Dataset.REDUCED: [output.stage(Dataset.REDUCED, REDUCED.empty_table())]},
            replace=DERIVED,
            properties={**FORGOTTEN, "reduction": {"key": key, "warnings": [str(error)]}},
            model=NO_MODEL,
        )


def reduce(
    workers: Workers,
    output: Output,
    *,
    key: str = "",
    seed: int = 0,
    variance: float | None = 0.95,
    components: int | None = None,
    fit_validation: bool = False,
    weights: Mapping[str, float] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ReductionResult:
    """Fit scaler and PCA on the training rows, write all rows reduced, as Parquet and gzip CSV, and commit.

    Args:
        workers: what does the work.
        output: the output, locked for writing.
        key: the stage's key, recorded in the property ``reduction``.
        seed: seed of the draw of training rows that are held out for the classifiers.
        variance: keep the fewest components that hold at least this share of the variance.
        components: keep this many instead.
        fit_validation: whether a held-out validation split joins the last fit, as other held-out rows do.
        weights: source -> weight of its rows, if it is not 1; for the classifiers, not for scaler and PCA.
        progress: called with the number of rows done since the last call; every row counts once.

    Raises:
        InputError: there are no features.
        TrainingError: there are no training rows, or a feature is NaN or infinite.
    """
    files = output.files(Dataset.FEATURES)
    rows = output.rows(Dataset.FEATURES)
    if not rows:
        raise InputError(f"{output.url} holds no features: extract some first, or look into its rejected images.")
    given, roles = roles_of(output, seed)
    columns = columns_of(output)
    fit, held_out = training_sums(workers, output.storage, files, roles, columns)
    every = np.concatenate(list(roles.values()))
    fit_views, held_out_views = view_sums(workers, output, roles, columns)
    of_rows = _weights_of_rows(output, weights) if weights else None
    fit_weights, held_out_weights = _weight_sums(workers, output, roles, columns, of_rows)
    if given and not fit_validation:
        held_out = held_out_views = held_out_weights = None
    views = (fit_views, held_out_views)
    statistics = Statistics(fit, held_out, every, given, *views, fit_weights, held_out_weights, of_rows)
    if progress:
        progress(rows // 2)
    reduction = Reduction.fit(statistics.everything.moments, variance=variance, components=components)
    parquet, csv = _write(workers, output, files, reduction)
    result = ReductionResult(reduction, _metrics(reduction), _warnings(reduction, components))
    fitted_on = [Split.TRAIN, *([Split.VALIDATION] if given and fit_validation else [])]
    found = {"key": key, "metrics": result.metrics, "warnings": result.warnings, "fitted_on": fitted_on}
    if weights:
        found["weights"] = dict(weights)
    output.commit(
        {Dataset.REDUCED: parquet, Dataset.REDUCED_CSV: csv},
        replace=DERIVED,
        properties={**FORGOTTEN, "reduction": found},
        parts={REDUCTION: reduction.to_bytes(), STATISTICS: statistics.to_bytes()},
    )
    if progress:
        progress(rows - rows // 2)
    return result


def columns_of(output: Output) -> tuple[str, ...]:
    """Return the further label columns that featurized images have values of, sorted."""
    return names_in(output.read(Dataset.INVENTORY, [LABEL_COLUMNS], INVENTORY)[LABEL_COLUMNS])


def load(output: Output) -> Reduction:
    """Return the reduction that was committed.

    Raises:
        InputError: there is none.
        OutputDamaged: it is not what was written.
    """
    data = output.part(REDUCTION)
    if data is None:
        raise InputError(f"The features in {output.url} are not reduced yet: start with orchard reduce {output.url}.")
    return Reduction.from_bytes(data)


def roles_of(output: Output, seed: int) -> tuple[bool, Roles]:
    """Return whether the validation split is held out (rather than training rows), and the role of each row.

    A validation split with fewer labelled rows than `LEAST_ROWS` is too small to calibrate, so training rows are held
    out instead.
    """
    images = output.read(Dataset.FEATURES, ["path", "label", "split"], FEATURES)
    split = np.array(images["split"].to_pylist(), dtype=object)
    roles = np.where(split == Split.TRAIN, Role.FIT, Role.NONE).astype(np.int8)
    is_labelled = images["label"].is_valid().to_numpy()
    given = int(((split == Split.VALIDATION) & is_labelled).sum()) >= LEAST_ROWS
    if given:
        roles[split == Split.VALIDATION] = Role.HELD_OUT
    else:
        training = np.flatnonzero(roles == Role.FIT)
        chosen = images.take(pa.array(training))
        inventory = output.read(Dataset.INVENTORY, ["path", "group"], INVENTORY)
        groups = inventory["group"].take(pc.index_in(chosen["path"], inventory["path"].combine_chunks()))
        held = hold_out(chosen["path"].to_pylist(), chosen["label"].to_pylist(), seed, groups.to_pylist())
        roles[training[held]] = Role.HELD_OUT
    return given, by_file(output, roles)


def by_file(output: Output, marks: NDArray[Mark]) -> Mapping[str, NDArray[Mark]]:
    """Return the roles or other marks (n,) of all rows of the features, by the name of their file."""
    files = output.files(Dataset.FEATURES)
    ends = np.cumsum([file.rows for file in files])
    return {file.name: part for file, part in zip(files, np.split(marks, ends[:-1]), strict=True)}


def training_sums(
    workers: Workers, storage: Storage, files: Sequence[DataFile], roles: Roles, columns: Sequence[str] = ()
) -> tuple[Sums, Sums | None]:
    """Return the sums of the rows to fit on, and of the held-out rows. All rows are checked to be finite.

    Args:
        workers: what does the work.
        storage: the output's storage.
        files: files of ``features/``.
        roles: the roles of their rows.
        columns: further label columns whose classes are summed up besides those of ``label``.

    Raises:
        TrainingError: a feature is NaN or infinite.
    """
    rows = sum(file.rows for file in files)
    groups = balance(files, min(2 * workers.slots, max(workers.slots, rows // SUMMED_ROWS)))
    work = [(group, {file.name: roles[file.name] for file in group}) for group in groups]
    found = workers.merge(partial(_sums_of_files, storage, columns), work, _Found.merge)
    if found.broken is not None:
        raise TrainingError(
            f"The features of {found.broken} are not finite numbers: the backbone's weights or the precision are at "
            "fault; extract again with --fresh and precision float32."
        )
    nothing = Sums.of(np.empty((0, 0), np.float32), {name: [] for name in ("label", *columns)})
    return found.fit or nothing, found.held_out


def view_sums(
    workers: Workers, output: Output, roles: Roles, columns: Sequence[str]
) -> tuple[Sums | None, Sums | None]:
    """Return the sums of the views of images to fit on, and of held-out images; None if there are no views.

    Args:
        workers: what does the work.
        output: the output, with features, and maybe with views.
        roles: the roles of the rows of the features; views have the roles of their images.
        columns: as for `training_sums`.

    Raises:
        TrainingError: a feature is NaN or infinite.
    """
    files = [file for file in output.files(Dataset.VIEWS) if file.rows]
    if not files:
        return None, None
    images = output.read(Dataset.FEATURES, ["path"], FEATURES)["path"].combine_chunks()
    role = np.concatenate([roles[file.name] for file in output.files(Dataset.FEATURES)])
    views = output.read(Dataset.VIEWS, ["path", "split"], VIEWS)
    of_view = role[pc.index_in(views["path"], images).to_numpy()]
    # An image that has left training has kept its views.
    is_viewed = pc.is_in(views["split"], pa.array(VIEWED, pa.string())).to_numpy()
    of_view = np.where(is_viewed, of_view, Role.NONE).astype(np.int8)
    ends = np.cumsum([file.rows for file in output.files(Dataset.VIEWS)])
    parts = zip(output.files(Dataset.VIEWS), np.split(of_view, ends[:-1]), strict=True)
    of_file = {file.name: part for file, part in parts}
    fit, held_out = training_sums(workers, output.storage, files, of_file, columns)
    return (fit if fit.moments.count else None), held_out


def _weights_of_rows(output: Output, weights: Mapping[str, float]) -> NDArray[np.float32]:
    """Return the weight of every row of the features, in the order of their files, by the source of its image."""
    inventory = output.read(Dataset.INVENTORY, ["path", "source"], INVENTORY)
    paths = output.read(Dataset.FEATURES, ["path"], FEATURES)["path"]
    source = inventory["source"].take(pc.index_in(paths, inventory["path"].combine_chunks()))
    values = pa.array([1.0, *weights.values()], pa.float32())
    found: NDArray[np.float32] = values.take(
        pc.add(pc.fill_null(pc.index_in(source, pa.array(list(weights), pa.string())), -1), 1)
    ).to_numpy()
    return found


def _weight_sums(
    workers: Workers,
    output: Output,
    roles: Roles,
    columns: Sequence[str],
    weights: NDArray[np.float32] | None,
) -> tuple[Sums | None, Sums | None]:
    """Return what weights of sources change in the sums to fit on and in those held out, views included.

    A row that weighs w adds w - 1 times what it has added already, so the pass over all rows needs no weights, and rows
    that weigh 1 are not read again. `weights` are those of `_weights_of_rows`; None: every row weighs 1.
    """
    changes: tuple[Sums | None, Sums | None] = (None, None)
    if weights is None:
        return changes
    every = np.concatenate(list(roles.values()))
    files = output.files(Dataset.FEATURES)
    for weight in sorted({*weights.tolist()} - {1.0}):
        mine = by_file(output, np.where(weights == np.float32(weight), every, Role.NONE).astype(np.int8))
        read = [file for file in files if mine[file.name].any()]
        if not read:
            continue
        for sums in (
            training_sums(workers, output.storage, read, mine, columns),
            view_sums(workers, output, mine, columns),
        ):
            scaled = [part.scaled(weight - 1) if part is not None and part.moments.count else None for part in sums]
            changes = (_merge(changes[0], scaled[0]), _merge(changes[1], scaled[1]))
    return changes


def project_batches(
    storage: Storage, projection: Projection, file: DataFile, *, checked: bool = False
) -> Iterator[pa.RecordBatch]:
    """Yield the reduced rows of a features file, with the columns of `REDUCED`; `checked` is that of `batches`."""
    for batch in batches(storage, file, [*_COLUMNS, "features"], checked=checked):
        reduced = projection(matrix(batch.column("features")))
        yield pa.record_batch([*(batch.column(c) for c in _COLUMNS), list_column(reduced)], schema=REDUCED)


@dataclass(frozen=True)
class _Found:
    """What a task found: the sums of its rows by their roles, and the path of a row that is not finite."""

    fit: Sums | None = None
    held_out: Sums | None = None
    broken: str | None = None

    def merge(self, other: _Found) -> _Found:
        broken = min((path for path in (self.broken, other.broken) if path is not None), default=None)
        return _Found(_merge(self.fit, other.fit), _merge(self.held_out, other.held_out), broken)


def _merge(one: Sums | None, other: Sums | None) -> Sums | None:
    return one.merge(other) if one and other else one or other


def _sums_of_files(storage: Storage, names: Sequence[str], work: tuple[Sequence[DataFile], Roles]) -> _Found:
    files, roles = work
    found: dict[Role, Sums] = {}
    shift: NDArray[np.float64] | None = None
    for batch, role in gathered(_marked(storage, files, roles)):
        rows = matrix(batch.column("features"))
        if not np.isfinite(rows.sum(dtype=np.float64)):
            first = int(np.argmin(np.isfinite(rows).all(axis=1)))
            return _Found(broken=batch.column("path")[first].as_py())
        for kind in (Role.FIT, Role.HELD_OUT):
            at = np.flatnonzero(role == kind)
            if not len(at):
                continue
            chosen = batch.select(["label", LABEL_COLUMNS]).take(pa.array(at))
            columns = {name: values_of(chosen.column(LABEL_COLUMNS), name).to_pylist() for name in names}
            columns = {"label": chosen.column("label").to_pylist(), **columns}
            # One shift per task, so that merging is adding.
            summed = Sums.of(rows if len(at) == len(rows) else rows[at], columns, shift)
            found[kind] = found[kind].merge(summed) if kind in found else summed
            shift = found[kind].moments.shift
            del summed  # 13 MB, which are not to stay beside those of the next batch
    return _Found(found.get(Role.FIT), found.get(Role.HELD_OUT))


def _marked(
    storage: Storage, files: Sequence[DataFile], roles: Roles
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int8]]]:
    for file in files:
        read = batches(storage, file, ["path", "label", LABEL_COLUMNS, "features"])
        yield from with_marks(read, roles[file.name])


def _write(
    workers: Workers, output: Output, files: Sequence[DataFile], reduction: Reduction
) -> tuple[list[DataFile], list[DataFile]]:
    projection = workers.share(Projection(*reduction.affine()))
    groups = balance(files, 2 * workers.slots, max_rows=PART_ROWS)
    write = partial(_write_part, output.storage, output.staging, projection)
    written = workers.run(write, groups)
    projection.unpersist()
    return [parquet for parquet, _ in written], [csv for _, csv in written]


def _write_part(
    storage: Storage, staging: str, projection: Shared[Projection], files: Sequence[DataFile]
) -> tuple[DataFile, DataFile]:
    """Reduce `files` into one staged Parquet file and one staged CSV file of the same rows."""
    # Huffman coding only: digits of floats hold no repeats for deflate to find. On 12.8 MB of CSV it takes 0.07 s
    # and leaves 6.0 MB; level 1 takes 0.12 s for 6.4 MB, level 6 0.86 s for 5.8 MB.
    deflate = zlib.compressobj(1, zlib.DEFLATED, 31, 9, zlib.Z_HUFFMAN_ONLY)
    reduced: list[pa.RecordBatch] = []
    text: list[bytes] = []
    for file in files:
        for batch in project_batches(storage, projection.value, file, checked=True):
            text.append(deflate.compress(memoryview(as_csv(batch, header=not reduced))))
            reduced.append(batch)
    text.append(deflate.flush())
    table = pa.Table.from_batches(reduced, REDUCED)
    rows = parquet_bytes(table, dictionary=[*NAMES, "split"])
    return (
        stage_file(storage, staging, part(Dataset.REDUCED), rows, table.num_rows),
        stage_file(storage, staging, part(Dataset.REDUCED_CSV, "csv.gz"), b"".join(text), table.num_rows),
    )


def as_csv(batch: pa.RecordBatch, *, header: bool) -> pa.Buffer:
    """Return rows of `REDUCED` as CSV: path, label, kind, split, pc_1 … pc_k; floats with all digits that they need.

    Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    columns = np.ascontiguousarray(matrix(batch.column("pca_features")).T)
    names = [*_COLUMNS, *(f"pc_{i}" for i in range(1, len(columns) + 1))]
    texts = (pc.replace_substring_regex(batch.column(c), FORMULA, r"'\0") for c in _COLUMNS)
    table = pa.table([*texts, *map(pa.array, columns)], names=names)
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(include_header=header))
    return sink.getvalue()


def _metrics(reduction: Reduction) -> PcaMetrics:
    return {
        "k": reduction.n_components_,
        "explained_variance": reduction.explained_variance_share,
        "explained_variance_ratio": reduction.explained_variance_ratio_.tolist(),
        "n_features": len(reduction.mean_),
        "zero_variance_features": reduction.zero_variance_features_,
        "train_rows": reduction.n_samples_,
    }


def _warnings(reduction: Reduction, components: int | None) -> list[str]:
    warnings = []
    k, n = reduction.n_components_, reduction.n_samples_
    if not reduction.explained_variance_.any():
        warnings.append(
            f"The {n} training row(s) do not differ, so their one component is zero everywhere: add other images."
        )
    elif components is not None and k < components:
        warnings.append(
            f"{components} components were asked for; {n} training rows of {len(reduction.mean_)} features "
            f"have only {k}."
        )
    return warnings
