"""The API's OpenAPI description, with inputs, outputs and examples; and the answer of ``GET /v1/model``."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from orchard.inference.description import describe
from orchard.inference.model import Model
from orchard.inference.predictor import PLACE_IMAGES
from orchard.serving.prediction import TOP
from orchard.serving.problems import MEDIA_TYPE, Refusal
from orchard.vocabulary import Answer, Fit, Reason

_ID = "5f0c1e0c9a3b4d6f8e7a6b5c4d3e2f10"


class Candidate(BaseModel):
    """A label and its probability."""

    label: str
    confidence: float = Field(ge=0, le=1)


class Card(BaseModel):
    """Facts about a label, or about its kind."""

    label: str | None = Field(None, description="label that the card describes; null if it describes a kind")
    kind: str | None = None
    language: str = Field(
        description="language of the card, in BCP 47; another one than requested if there is none in that"
    )
    name: str
    text: str | None = Field(None, description="plain text, which may have several lines")
    season: str | None = None
    storage: str | None = None
    origin: str | None = None
    link: str | None = Field(None, description="http or https")
    source: str | None = Field(None, description="author of the text")
    licence: str | None = None


class ColumnAnswer(BaseModel):
    """The answer for a further label column."""

    value: str | None = Field(description="the value, or null if it is not sure")
    likeliest: str
    confidence: float = Field(ge=0, le=1, description="calibrated probability of the likeliest value")


class Region(BaseModel):
    """Something on an image."""

    box: tuple[float, float, float, float] = Field(
        description="left, top, right and bottom of the part that shows it best: shares of the upright image"
    )
    name: str = Field(description="its kind; its label if the model knows no kinds")
    confidence: float = Field(ge=0, le=1, description="calibrated probability, in that part")


class Answered(BaseModel):
    """The answer for one image."""

    filename: str | None = Field(None, description="file name from the request; absent for a raw body")
    answer: Answer = Field(description="sure; not_sure: which label is uncertain; unknown: unlike the training images")
    label: str | None = Field(description="null unless the answer is sure")
    kind: str | None = Field(description="coarser name above the label; null if not sure, or if the model has no kinds")
    confidence: float = Field(ge=0, le=1, description="calibrated probability of the likeliest label")
    familiarity: float = Field(ge=0, le=1, description="how similar the image is to the training images")
    top: list[Candidate] = Field(description="candidate labels, likeliest first")
    columns: dict[str, ColumnAnswer] | None = Field(
        None, description="answers by column name; absent if the model has no further label columns"
    )
    card: Card | None = Field(
        None,
        description="present with the parameter `cards`; null if there is none, or if neither label nor kind is sure",
    )
    regions: list[Region] | None = Field(
        None, description="only where `regions` asks: what is found on the image, the surest first, each kind once"
    )
    map: list[list[float]] | None = Field(
        None,
        description="only where `regions` asks: how much each cell of the square that the network sees speaks for the "
        "first of `top`, row by row, as a share of what the cell says that says most; at most 16 x 16",
    )
    milliseconds: float = Field(ge=0, description="time in queue and engine")


class ImageError(BaseModel):
    """Why there is no answer."""

    reason: Reason | Refusal
    detail: str


class Rejected(BaseModel):
    """An image among several that could not be read."""

    filename: str | None = None
    error: ImageError


class Predictions(BaseModel):
    """One element for each file, in their order."""

    model: str = Field(description="digest of the model that answered", pattern="^[0-9a-f]{32}$")
    predictions: list[Answered | Rejected]


class ProblemBody(BaseModel):
    """RFC 9457, with the reason of a closed list."""

    type: str
    title: str
    status: int
    detail: str | None = None
    reason: Reason | Refusal | None = None
    instance: str
    request_id: str


class Health(BaseModel):
    """Liveness or readiness status."""

    status: str = Field(description="liveness or readiness status")


class Training(BaseModel):
    """How the model was trained."""

    finished: str | None = Field(description="end of training, in ISO 8601, UTC")
    orchard: str | None = Field(description="version of Orchard that trained the model")
    images: int | None
    train_images: int | None
    test_images: int | None
    components: int | None = Field(description="number of PCA components")
    explained_variance: float | None


class ModelCard(BaseModel):
    """The model that answers."""

    digest: str = Field(pattern="^[0-9a-f]{32}$")
    labels: list[str]
    columns: dict[str, list[str]] = Field(description="values of each further label column")
    backbone: str
    input_size: int = Field(description="side of the backbone's square input, in pixels")
    fit: Fit = Field(description="how an image becomes that square")
    test_views: int = Field(description="number of views of an image whose features are averaged")
    precision: str
    classifier: str = Field(description="linear classifier that answers")
    threshold: float = Field(description="lowest confidence of a sure answer")
    familiarity_threshold: float = Field(description="lowest familiarity of an image that is not unknown")
    temperature: float = Field(description="temperature that divides the scores before the softmax")
    accuracy: float | None = Field(description="accuracy on the test images, including answers that are not sure")
    training: Training


def model_card(model: Model) -> ModelCard:
    """Return the answer of ``GET /v1/model``, which does not contain the addresses of images and results."""
    described = describe(model)
    training, splits = described.training, described.training.images_by_split
    return ModelCard(
        digest=described.digest,
        labels=described.labels,
        columns={column.name: column.values for column in described.columns},
        backbone=described.backbone,
        input_size=described.input_size,
        fit=described.fit,
        test_views=described.test_views,
        precision=described.precision,
        classifier=described.classifier,
        threshold=described.threshold,
        familiarity_threshold=described.familiarity_threshold,
        temperature=described.temperature,
        accuracy=training.test.get("accuracy"),
        training=Training(
            finished=training.finished,
            orchard=training.versions.get("orchard"),
            images=training.images,
            train_images=splits.get("train", 0) if splits else None,
            test_images=splits.get("test", 0) if splits else None,
            components=training.components,
            explained_variance=training.explained_variance,
        ),
    )


_PROBLEMS: dict[int, tuple[str, Reason | Refusal | None, str | None]] = {
    400: ("The body is broken", Reason.UNREADABLE, "The body is no valid multipart/form-data."),
    408: ("The body did not arrive in time", Refusal.SLOW_BODY, "The body did not arrive within 30 s."),
    413: ("Too many bytes, pixels or files", Reason.TOO_LARGE, "more than 20971520 bytes"),
    415: ("Not an image, or an unsupported type of body", Reason.UNSUPPORTED_FORMAT, "looks like text"),
    422: (
        "The image cannot be decoded, there is none, or top, cards or regions is wrong",
        Reason.TRUNCATED,
        "jpeg: truncated",
    ),
    500: (
        "A fault of the server (find it in the log by the request's id), or an image that killed two engines",
        None,
        None,
    ),
    503: ("The queue is full, or the server is not ready: try again", Refusal.QUEUE_FULL, "256 images may wait."),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of these answers."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        description, reason, detail = _PROBLEMS[status]
        example: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
        example |= {"detail": detail} if detail else {}
        example |= {"reason": reason} if reason else {}
        example |= {"instance": f"/requests/{_ID}", "request_id": _ID}
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
        found[status] = {"description": description, "content": {MEDIA_TYPE: content}}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            seconds = {"description": "time to wait, in seconds", "required": True, "schema": {"type": "integer"}}
            found[status]["headers"] = {"Retry-After": seconds}
    return found


def describe_problems(app: FastAPI) -> None:
    """Add the schema of a problem to the document; no route returns it as its model."""
    generate: Callable[[], dict[str, Any]] = app.openapi

    def document_with_problems() -> dict[str, Any]:
        document = generate()
        schemas = document["components"]["schemas"]
        if "Problem" not in schemas:
            problem = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(problem.pop("$defs", {}))
            schemas["Problem"] = problem
        return document

    app.openapi = document_with_problems  # type: ignore[method-assign]


def predict_request(model: Model, max_files: int) -> dict[str, Any]:
    """Return the description of the body of ``POST /v1/predict``."""
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "properties": {
            "file": {**binary, "description": "an image: JPEG, PNG, WebP, BMP, GIF or TIFF"},
            "files": {"type": "array", "items": binary, "maxItems": max_files, "description": "several images"},
        },
        "anyOf": [{"required": ["file"]}, {"required": ["files"]}],
    }
    classes = len(model.labels)
    top = {"type": "integer", "minimum": 1, "maximum": classes, "default": min(TOP, classes)}
    return {
        "parameters": [
            {"name": "top", "in": "query", "required": False, "description": "number of labels to list", "schema": top},
            {
                "name": "cards",
                "in": "query",
                "required": False,
                "allowEmptyValue": True,
                "description": "add cards in this language; if empty, in the languages of Accept-Language",
                "schema": {"type": "string", "examples": ["fr"]},
            },
            {
                "name": "regions",
                "in": "query",
                "required": False,
                "description": f"say what is where, too; it costs as much as {PLACE_IMAGES} images",
                "schema": {"type": "boolean", "default": False},
            },
        ],
        "requestBody": {
            "required": True,
            "description": "a form with one image or several, under any field names, or one image as the body",
            "content": {
                "multipart/form-data": {"schema": form},
                "application/octet-stream": {"schema": binary},
                "image/*": {"schema": binary},
            },
        },
    }


def answer_example(model: Model) -> dict[str, Any]:
    """Return the description of an answer to one good photograph, one that is not sure, and one broken file."""
    first, second = model.labels[0], model.labels[-1]
    sure = [{"label": first, "confidence": 0.9731}, {"label": second, "confidence": 0.0113}]
    unsure = [{"label": second, "confidence": 0.4102}, {"label": first, "confidence": 0.3587}]
    predictions: list[dict[str, Any]] = [
        {
            "filename": "1.jpg",
            "answer": Answer.SURE,
            "label": first,
            "kind": None,
            "confidence": 0.9731,
            "familiarity": 0.7214,
            "top": sure,
            "milliseconds": 5.1,
        },
        {
            "filename": "2.jpg",
            "answer": Answer.NOT_SURE,
            "label": None,
            "kind": None,
            "confidence": 0.4102,
            "familiarity": 0.5846,
            "top": unsure,
            "milliseconds": 5.1,
        },
        {"filename": "3.jpg", "error": {"reason": Reason.TRUNCATED, "detail": "jpeg: image file is truncated"}},
    ]
    return {"application/json": {"example": {"model": model.digest, "predictions": predictions}}}
