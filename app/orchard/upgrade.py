"""Outputs of earlier versions of Orchard: what is kept, and what is made again."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from orchard.layout import BACKBONE, DERIVED, EXTRACTED, FORGOTTEN, MODEL

if TYPE_CHECKING:
    from orchard.output import Output

log = logging.getLogger(__name__)


def upgrade(output: Output) -> None:
    """Bring an output of format 1 to today's by one commit.

    Features stay as they are. The model's parts lay side by side in ``model/`` and could be of different runs: the
    network is kept, and the other parts are made again by the next stages, from the features.
    """
    storage = output.storage
    sizes = {entry.key: entry.size for dataset in EXTRACTED for entry in storage.list(f"{dataset}/")}
    old = [entry.key for entry in storage.list(MODEL)]
    network = f"{MODEL}{BACKBONE}"
    output.commit(
        {dataset: [replace(file, size=sizes[file.name]) for file in output.files(dataset)] for dataset in EXTRACTED},
        replace=DERIVED,
        remove=old,
        parts={BACKBONE: storage.read(network)} if network in old else {},
        properties={**FORGOTTEN, "report": None},
    )
    log.info("upgraded %s; no image is decoded again, but the later stages are done anew", output.url)
