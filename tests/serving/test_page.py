"""What the server sends for the page: known files alone, cached rightly, complete in both languages."""

import gzip
import json
import re
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from PIL import Image

from orchard.cli.serve import _notice
from orchard.errors import InputError
from orchard.features.artifact import Artifact, EngineName, Precision
from orchard.inference.model import Model
from orchard.serving import static
from orchard.serving.app import Serving, create_app
from orchard.serving.problems import Problem
from orchard.storage import S3Options
from waiting import wait_until

LABELS = ("Apple", "Café crème", "Mango")
TEXT = sorted(path for path in static.PAGE.glob("*.*") if path.suffix in {".html", ".css", ".js", ".webmanifest"})


@pytest.fixture(scope="module")
def model() -> Model:
    """A model whose network cannot be read, as the page's files do not depend on it."""
    artifact = Artifact(
        "EfficientNetLite0", 1.0, 224, 4, EngineName.OPENVINO, Precision.FLOAT32, "none", "0" * 32, b"not a graph"
    )
    return Model(artifact, LABELS, np.eye(3, 4, dtype=np.float32), np.zeros(3, np.float32))


def _client(model: Model) -> TestClient:
    app = FastAPI()
    app.include_router(static.router(model))

    @app.exception_handler(Problem)
    def _(_: object, problem: Problem) -> None:
        raise HTTPException(problem.status, problem.detail, problem.headers)

    return TestClient(app)


@pytest.fixture(scope="module")
def client(model: Model) -> TestClient:
    return _client(model)


def _listed(client: TestClient) -> dict[str, object]:
    first = client.get("/sw.js").text.split("\n")[0]
    found: dict[str, object] = json.loads(first.removeprefix("const PAGE = ").removesuffix(";"))
    return found


def test_every_file_that_the_page_names_is_served(client: TestClient) -> None:
    # Relative addresses: the page works under any path. Scripts lie in assets/, and name what is beside or above them.
    address = re.compile(
        r"[\"']((?:\.{1,2}/|assets/|vendor/)*[\w/-]+\.(?:js|mjs|wasm|css|svg|png|json|onnx|webmanifest))[\"']"
    )
    found = {name for path in TEXT for name in address.findall(path.read_text())}
    named = {
        f"/{name[3:]}" if name.startswith("../") else f"/assets/{name[2:]}" if name.startswith("./") else f"/{name}"
        for name in found
    }
    modules = {name for path in TEXT for name in re.findall(r"from \"\./([\w.]+)\"", path.read_text())}
    named |= {f"/assets/{name}" for name in modules}
    assert {"/assets/app.js", "/assets/pixels.js", "/manifest.webmanifest", "/assets/worker.js"} <= named
    vendored = {f"/assets/{name}" for name in static.RUNTIME if not (static.PAGE / name).is_file()}
    for path in sorted(named - vendored - {"/model.onnx", "/cards.json"}):
        assert client.get(path).status_code == 200, path


def test_the_service_worker_keeps_every_file_but_itself_and_the_model(client: TestClient) -> None:
    files = _listed(client)["files"]
    assert set(files) == set(static.read_page()) - {"/sw.js"}  # type: ignore[call-overload]
    assert "/" in files  # type: ignore[operator]


@pytest.mark.parametrize("path", ["/", "/sw.js", "/manifest.webmanifest", "/assets/app.js", "/assets/icons/icon.svg"])
def test_a_file_is_asked_for_again_and_sent_only_if_it_has_changed(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    again = client.get(path, headers={"if-none-match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    assert client.head(path).headers["content-length"] == first.headers["content-length"]


def test_text_is_compressed_for_those_who_take_it(client: TestClient) -> None:
    plain = client.get("/assets/app.js", headers={"accept-encoding": "identity"})
    assert plain.content == (static.PAGE / "app.js").read_bytes()
    with client.stream("GET", "/assets/app.js", headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 2
    assert "content-encoding" not in client.get("/assets/icons/icon-192.png").headers


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("br;q=1.0, GZIP ; q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("identity, gzip; q=0.000, *;q=0", None),
        ("notgzip", None),
        ("", None),
    ],
)
def test_text_is_not_compressed_for_those_who_refuse_it(
    client: TestClient, accepted: str, encoding: str | None
) -> None:
    assert client.get("/", headers={"accept-encoding": accepted}).headers.get("content-encoding") == encoding


@pytest.mark.parametrize(
    "path", ["/assets/../static.py", "/assets/%2e%2e/static.py", "/assets/package.json", "/assets/icons/draw.py"]
)
def test_nothing_else_of_the_disk_can_be_had(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_privacy_notice_is_in_the_page_itself_as_text_or_as_a_link(client: TestClient, tmp_path: Path) -> None:
    assert 'id="privacy"' not in client.get("/").text
    page = static.read_page("<script>\\1 & you</script>")["/"].content.decode()
    assert '<p dir="auto">&lt;script&gt;\\1 &amp; you&lt;/script&gt;</p>' in page
    assert page.index('id="privacy"') < page.index('id="choose"') < page.index('id="known"')
    linked = static.read_page('https://example.com/privacy?a="b"&c')["/"].content.decode()
    assert '<a href="https://example.com/privacy?a=&quot;b&quot;&amp;c" target="_blank" rel="noopener' in linked
    assert "<a " not in static.read_page("javascript:alert(1)")["/"].content.decode().partition('id="privacy"')[2][:200]
    assert static.read_page("one")["/sw.js"] != static.read_page("two")["/sw.js"]  # so browsers get the new one

    written = tmp_path / "notice.txt"
    written.write_text("\nWe keep nothing.\n")
    assert _notice(str(written), S3Options()) == "We keep nothing."
    assert _notice("https://example.com/privacy", S3Options()) == "https://example.com/privacy"
    for content, said in ((b"", "is empty"), (b"\xff\xff", "is no text"), (b"a" * 70_000, "more than 65,536 bytes")):
        written.write_bytes(content)
        with pytest.raises(InputError, match=said):
            _notice(str(written), S3Options())
    with pytest.raises(InputError, match="does not exist: check --privacy-notice"):
        _notice(str(tmp_path / "none.txt"), S3Options())


def test_a_changed_file_changes_the_service_worker(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in static.PAGE.rglob("*.*"):
        name = file.relative_to(static.PAGE)
        if "node_modules" not in name.parts and file.is_file():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).symlink_to(file)
    monkeypatch.setattr(static, "PAGE", tmp_path)
    former = static.read_page()
    assert former["/sw.js"].content == client.get("/sw.js").content
    changed = tmp_path / "app.css"
    style = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(style + b"\n")
    now = static.read_page()
    assert {path for path in now if now[path] != former[path]} == {"/assets/app.css", "/sw.js"}


def test_the_page_is_told_what_it_needs_to_know_of_the_model(client: TestClient, model: Model) -> None:
    answer = client.get("/model.json")
    about = answer.json()
    assert about["labels"] == list(LABELS)
    assert (about["digest"], about["threshold"], about["input"]["size"]) == (model.digest, 0.5, 224)
    assert about["input"]["fit"] == "stretch"
    looking = replace(model, artifact=replace(model.artifact, test_views=3))  # the smallest view needs so many pixels
    assert json.loads(static.about_model(looking, runtime=True).content)["input"]["size"] == 320
    assert about["runtime"] == all((static.PAGE / name).is_file() for name in static.RUNTIME)
    assert client.get("/model.json", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_a_model_that_browsers_cannot_have_is_said_to_be_missing(client: TestClient) -> None:
    def is_decided() -> bool:
        answer = client.get("/model.onnx")
        if answer.status_code != 503:
            return True
        assert answer.headers["retry-after"]
        return False

    wait_until(is_decided)
    assert client.get("/model.onnx").status_code == 404


def test_the_model_is_made_in_the_background_and_sent_with_its_digest(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.load(str(trained))
    may_start = threading.Event()
    make = static.ExportedModel.make
    monkeypatch.setattr(static.ExportedModel, "make", lambda self: (may_start.wait(60), make(self)))
    client = _client(model)
    early = client.get("/model.onnx")
    assert early.status_code == 503
    assert int(early.headers["retry-after"]) >= 1
    may_start.set()
    wait_until(lambda: client.get("/model.onnx").status_code == 200)
    answer = client.get("/model.onnx")
    assert answer.headers["etag"] == f'"{model.digest}"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert len(answer.content) < 8_000_000  # float16: half of what the network weighs
    assert client.get("/model.onnx", headers={"if-none-match": f'"{model.digest}"'}).status_code == 304


def _texts() -> dict[str, dict[str, str]]:
    script = (static.PAGE / "texts.js").read_text(encoding="utf-8")
    literal = re.search(r"export const TEXTS = (\{.*?\n\});", script, re.DOTALL)
    assert literal is not None
    texts: dict[str, dict[str, str]] = json.loads(literal.group(1))
    return texts


def test_both_languages_say_everything() -> None:
    texts = _texts()
    assert set(texts) == {"en", "fr"}
    assert list(texts["en"]) == list(texts["fr"])
    for key, english in texts["en"].items():
        french = texts["fr"][key]
        assert french.strip(), key
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", french)), key


def test_every_text_that_the_page_asks_for_exists_and_every_reason_has_words() -> None:
    from orchard.vocabulary import Reason

    texts = _texts()["en"]
    asked = {key for path in TEXT for key in re.findall(r"\btext\(\"(\w+)\"", path.read_text())}
    html = (static.PAGE / "index.html").read_text(encoding="utf-8")
    asked |= set(re.findall(r"data-(?:text|label)=\"(\w+)\"", html))
    assert len(asked) > 20
    assert asked <= set(texts)
    assert {f"reason_{reason}" for reason in Reason} <= set(texts)
    shown = dict(re.findall(r"data-text=\"(\w+)\">([^<]*)<", html))
    assert shown == {key: texts[key] for key in shown}  # what is read before the scripts run


@pytest.mark.parametrize("path", TEXT, ids=lambda path: path.name)
def test_no_file_names_another_server(path: Path) -> None:
    assert re.findall(r"(?:https?:|wss?:|[\"'(])//\w[^\s\"')]*", path.read_text(encoding="utf-8")) == []


def test_there_is_neither_inline_script_nor_inline_style() -> None:
    html = (static.PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", html)


def test_the_lock_file_has_hashes_and_no_addresses() -> None:
    text = (static.PAGE / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in text
    packages = {name: package for name, package in json.loads(text)["packages"].items() if name}
    assert "node_modules/onnxruntime-web" in packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())


def test_what_npm_brings_is_not_kept_in_the_repository() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=static.PAGE,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("this is no checkout")
    assert not [name for name in tracked.stdout.splitlines() if name.startswith(("vendor/", "node_modules/"))]


def test_it_can_be_installed() -> None:
    manifest = json.loads((static.PAGE / "manifest.webmanifest").read_text(encoding="utf-8"))
    assert manifest["display"] == "standalone"
    sizes = {}
    for icon in manifest["icons"]:
        file = static.PAGE / icon["src"].removeprefix("assets/")
        with Image.open(file) as image:
            assert f"{image.width}x{image.height}" == icon["sizes"]
        assert file.stat().st_size < 40_000
        sizes[icon["sizes"], icon.get("purpose", "any")] = file
    assert set(sizes) == {("192x192", "any"), ("512x512", "any"), ("512x512", "maskable")}
    with Image.open(static.PAGE / "icons/apple-touch-icon.png") as image:
        assert (image.size, image.mode) == ((180, 180), "RGB")  # iOS shows transparency as black


@pytest.mark.usefixtures("npm_parts")
def test_the_api_is_shown_to_people_below_a_proxys_path_too(model: Model) -> None:
    client = TestClient(create_app(model, Serving(root_path="/fruits")))
    for path in ("/docs", "/fruits/docs", "/fruits/docs/swagger-ui.css", "/fruits/docs/reference.js"):
        shown = client.get(path)
        assert shown.status_code == 200 and "script-src 'self'" in shown.headers["content-security-policy"]
