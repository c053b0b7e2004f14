"""Which blocks of a backbone are trained, and the two networks into which it is cut there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from orchard.errors import UsageError
from orchard.features.backbones import REGISTRY, Backbone
from orchard.features.efficientnet_lite import VARIANTS, blocks_before, filters_after

if TYPE_CHECKING:
    import keras

_LITE_STAGES = 5
"""Stages that stay as they are: those after it see 7 x 7 or so, hold three quarters of the weights, and take a tenth
of the operations."""

_MOBILENET_CHANNELS = 96


def last_kept(backbone: Backbone) -> str:
    """Return the layer whose activations the trained blocks begin with.

    It is the last one before the network's last reduction: six blocks follow in EfficientNet-Lite1 and 2, five in
    Lite0, four in MobileNetV2.

    Raises:
        UsageError: the backbone's blocks have no names that are known here.
    """
    if backbone.name in VARIANTS:
        return f"block{blocks_before(backbone.name, _LITE_STAGES) - 1}_add"
    if backbone.family == "mobilenet_v2":
        return "block_12_add"
    known = ", ".join(b.name for b in REGISTRY.values() if b.name in VARIANTS or b.family == "mobilenet_v2")
    raise UsageError(f"--tune cannot train {backbone.name}, whose blocks it does not know: take one of {known}.")


def activation_bytes(backbone: Backbone) -> int:
    """Return the bytes of what the kept blocks make of a view, float16; see `last_kept` for errors.

    They shrink each side sixteen times.
    """
    last_kept(backbone)
    is_lite = backbone.name in VARIANTS
    channels = filters_after(backbone.name, _LITE_STAGES) if is_lite else round(_MOBILENET_CHANNELS * backbone.alpha)
    return 2 * channels * math.ceil(backbone.input_size / 16) ** 2


def divided(model: keras.Model, backbone: Backbone) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Return what of a model of `orchard.features.weights.keras_model` is kept and what is trained.

    The three share their weights with it.

    Returns:
        From pixels as of the model to activations; from these to features, its batch normalisation frozen; and the
        network within the model, whose weights are to be saved.
    """
    import keras

    network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    within = keras.Model(network.input, network.get_layer(last_kept(backbone)).output)
    x = model.input
    for layer in model.layers[1:]:  # what prepares pixels
        x = within(x) if layer is network else layer(x)
    front = keras.Model(model.input, x)
    tail = keras.Model(within.output, network.output)
    for layer in tail.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return front, tail, network


def with_factors(tail: keras.Model) -> tuple[keras.Model, int]:
    """Return a network in which each image has a factor for each of the blocks that add something to what they get.

    A factor of 0 leaves out what the block computes, one of 1 changes nothing. It shares its weights with `tail`.

    Returns:
        From activations and (n, blocks) factors to features; and the number of these blocks.
    """
    import keras

    sums = [layer for layer in tail.layers if isinstance(layer, keras.layers.Add)]
    order = {layer.name: number for number, layer in enumerate(tail.layers)}
    computed = {}
    for layer in sums:
        places = [order[term._keras_history.operation.name] for term in layer.input]
        computed[layer.name] = places.index(max(places))  # what is computed comes later than what it is added to
    activations, factors = keras.Input(tail.input.shape[1:]), keras.Input((len(sums),))

    def call(layer: keras.Layer, *given: Any, **others: Any) -> Any:
        if layer.name not in computed:
            return layer(*given, **others)
        terms, number = list(given[0]), list(computed).index(layer.name)
        terms[computed[layer.name]] *= keras.ops.reshape(factors[:, number], (-1, 1, 1, 1))
        return layer(terms, **others)

    beside = keras.Input(factors.shape[1:])  # a copy has the inputs of what is copied
    both = keras.Model([tail.input, beside], [tail.output, keras.layers.Identity()(beside)])
    features, _ = keras.models.clone_model(
        both, input_tensors=[activations, factors], clone_function=lambda layer: layer, call_function=call
    ).outputs
    return keras.Model([activations, factors], features), len(sums)
