"""Further label columns go with the model, and are answered beside the label."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from orchard.exports.card import model_card
from orchard.exports.formats import Format, StoredPrecision
from orchard.exports.graph import output_shapes
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.inference import columns
from orchard.inference.calibration import Calibration, Decision
from orchard.inference.columns import Column
from orchard.inference.familiarity import Familiarity
from orchard.inference.linear import Linear
from orchard.inference.model import Model
from orchard.inference.predict import column_values
from orchard.inference.predictor import answer
from orchard.layout import BACKBONE, CALIBRATION, COLUMNS, FAMILIARITY, LABELS, LINEAR_DISCRIMINANT, REDUCTION
from orchard.output import Output
from orchard.reduction.moments import Moments
from orchard.reduction.pca import Reduction
from orchard.serving.openapi import model_card as api_card
from orchard.serving.static import about_model


def test_a_models_columns_are_kept_answered_and_described(tmp_path: Path) -> None:
    artifact = build_artifact(find("MobileNetV3Small"), weights="random")
    d = artifact.n_features
    random = np.random.default_rng(0)
    direction = random.normal(size=d).astype(np.float32)
    column = Column(
        "ripeness",
        ("raw", "ripe"),
        Linear(np.stack([-direction, direction]), np.zeros(2, np.float32)),
        Calibration(temperature=2.0 * d, threshold=0.8),
    )
    label = Linear(random.normal(size=(3, d)).astype(np.float32), np.zeros(3, np.float32))
    familiarity = Familiarity(
        *(np.zeros(d, np.float32), np.ones(d, np.float32)),
        discriminants=direction[:, np.newaxis],
        classes=np.ones((1, 1), np.float32),
        spread=np.zeros((d, 1), np.float32),
        isotropic=1.0,
    )
    output = Output(str(tmp_path / "out"))
    reduction = Reduction.fit(Moments.of(random.normal(size=(20, d))), components=2)
    files = {
        LABELS: json.dumps(["a", "b", "c"]).encode(),
        CALIBRATION: Decision("linear_discriminant", Calibration(familiarity=0.1)).to_bytes(),
        FAMILIARITY: familiarity.to_bytes(),
        LINEAR_DISCRIMINANT: label.to_bytes(),
        COLUMNS: columns.to_bytes([column]),
    }
    with output.writing():
        output.commit({}, parts={BACKBONE: artifact.to_bytes(), REDUCTION: reduction.to_bytes()})
        output.commit({}, model=output.stage_model(files))
    model = Model.load(output.url)
    (found,) = model.columns
    assert (found.name, found.values, found.calibration) == (column.name, column.values, column.calibration)
    assert model.digest != replace(model, columns=()).digest

    # Along the direction it is ripe and familiar, a little along it is not sure, against it is unlike what was learned.
    rows = np.stack([direction * 3, direction / 100, -direction * 3]).astype(np.float32)
    said = [column_values(prediction.columns)["ripeness"] for prediction in answer(model, rows, 2)]
    assert [one["value"] for one in said] == ["ripe", None, None]
    assert [one["likeliest"] for one in said] == ["ripe", "ripe", "raw"]
    assert said[0]["confidence"] == said[2]["confidence"] > 0.8 > said[1]["confidence"] > 0.5

    assert output_shapes(model)["ripeness_probabilities"] == ["n", 2]
    card = model_card(model, Format.ONNX, StoredPrecision.FLOAT32)
    assert card["columns"][0]["threshold"] == 0.8 and card["outputs"][-1]["name"] == "ripeness_probabilities"
    assert api_card(model).columns == {"ripeness": ["raw", "ripe"]}
    about = json.loads(about_model(model, runtime=True).content)
    assert about["columns"] == [
        {"name": "ripeness", "output": "ripeness_probabilities", "values": ["raw", "ripe"], "threshold": 0.8}
    ]
