"""A network with branches: what it gives, and that every engine builds it from its file of weights."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from orchard.features.artifact import BATCH_SIZE, EngineName
from orchard.features.backbones import find
from orchard.features.branches import Branches, branched, branches_of, parameters_in, save
from orchard.features.conversion import build_artifact
from orchard.features.engines import cells_of, load_engine
from orchard.features.weights import keras_model, locate
from orchard.tuning.blocks import divided, last_kept


@pytest.mark.parametrize(("name", "alpha"), [("EfficientNetLite0", 1.0), ("MobileNetV2", 0.35)])
def test_branches_stand_side_by_side_in_every_engine(name: str, alpha: float, tmp_path: Path) -> None:
    import keras

    backbone = find(name, alpha=alpha, input_size=96)
    model, _ = keras_model(backbone, locate(backbone, "random", seed=0))
    _, tail, network = divided(model, backbone)
    branches = Branches(2, last_kept(backbone))
    whole, parts = branched(network, branches)
    prepared = keras.Model(model.input, model.layers[-2].output)
    images = np.random.default_rng(1).integers(0, 256, (BATCH_SIZE, 96, 96, 3), dtype=np.uint8)
    pixels = np.asarray(prepared(images.astype(np.float32)))

    def features_of(of: keras.Model) -> NDArray[np.float32]:
        return np.asarray(of(pixels, training=False))

    once = features_of(network)
    np.testing.assert_allclose(features_of(whole), np.tile(once, 2), rtol=1e-4, atol=1e-4)
    tail.set_weights([values * np.float32(0.9) for values in tail.get_weights()])
    parts[1].set_weights(tail.get_weights())
    expected = np.concatenate([once, features_of(network)], axis=1)
    np.testing.assert_allclose(features_of(whole), expected, rtol=1e-4, atol=1e-4)

    path = tmp_path / "tuned.weights.h5"
    network.save_weights(path)
    assert branches_of(path) is None and parameters_in(path) == backbone.parameters
    save(whole, path, branches)
    assert branches_of(path) == branches and parameters_in(path) == backbone.parameters + tail.count_params()
    found, _ = keras_model(backbone, locate(backbone, str(path)))
    np.testing.assert_allclose(np.asarray(found(images.astype(np.float32))), expected, rtol=1e-4, atol=1e-4)
    for engine in EngineName:
        artifact = build_artifact(backbone, weights=str(path), engine=engine)
        assert artifact.n_features == 2 * backbone.n_features
        scale = np.abs(expected).max()
        np.testing.assert_allclose(load_engine(artifact)(list(images)), expected, atol=1e-3 * scale)
        cells = cells_of(artifact)(images[0])
        assert cells.shape == (3, 3, artifact.n_features)
        np.testing.assert_allclose(cells.mean(axis=(0, 1)), expected[0], atol=1e-3 * scale)
