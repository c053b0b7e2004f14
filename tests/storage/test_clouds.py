"""Google's and Azure's stores know a pod by the identity that its cloud gives it; where there is none, that is told."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from orchard.errors import AccessDenied
from orchard.storage import S3Options, open_storage
from orchard.storage.s3_connection import reconnect

AZURE = "abfss://photos@fruits.dfs.core.windows.net"
VARIABLES = [
    *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BEARER_TOKEN", "GOOGLE_SERVICE_ACCOUNT", "STORAGE_EMULATOR_HOST"),
    *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN", "AZURE_USE_AZURE_CLI"),
    *("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"),
]


@dataclass
class Cloud:
    """A store that lets in who shows the token, and what gives it to a pod of GKE or AKS."""

    endpoint: str = ""
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    """What the pod said of itself to get a token of Azure's."""


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    found = Cloud()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/computeMetadata/"):
                granted = self.headers["Metadata-Flavor"] == "Google"
                return self._answer(200 if granted else 403, {"access_token": "of-the-pod", "expires_in": 3600})
            allowed = self.headers["Authorization"] == "Bearer of-the-pod"
            return self._answer(200 if allowed else 401, {})

        def do_POST(self) -> None:
            found.asked.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self._answer(200, {"access_token": "of-the-pod", "expires_in": 3600, "token_type": "Bearer"})

        def _answer(self, status: int, content: dict[str, object]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(body)),
                "Content-Type": "application/json",
                "ETag": '"1"',
                "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host = f"127.0.0.1:{server.server_address[1]}"
    found.endpoint = f"http://{host}"
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # which may hold a login
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    monkeypatch.setenv("METADATA_HOST", host)
    reconnect()
    yield found
    reconnect()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_pod_of_gke_is_known_by_its_service_account(cloud: Cloud) -> None:
    assert open_storage("gs://bucket/a", S3Options(gcs_endpoint=cloud.endpoint)).read("1.jpg") == b"{}"


def test_a_pod_of_aks_is_known_by_its_federated_token(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("of-the-service-account")
    for name, value in {
        "AZURE_CLIENT_ID": "client",
        "AZURE_TENANT_ID": "tenant",
        "AZURE_AUTHORITY_HOST": cloud.endpoint,
        "AZURE_FEDERATED_TOKEN_FILE": str(token),
    }.items():  # what the webhook of AKS sets
        monkeypatch.setenv(name, value)
    assert open_storage(f"{AZURE}/a", S3Options(azure_endpoint=cloud.endpoint)).read("1.jpg") == b"{}"
    (asked,) = cloud.asked
    assert asked["client_assertion"] == ["of-the-service-account"]
    assert asked["client_id"] == ["client"]


@pytest.mark.usefixtures("cloud")
def test_where_there_are_no_credentials_it_is_told_at_once_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/there/is/none.json")
    monkeypatch.setenv("AZURE_CLIENT_ID", "client")
    monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", "/there/is/none")
    started = time.monotonic()
    for url, said in {
        "gs://bucket/a": "no credentials for bucket bucket at .*gcloud auth application-default login.*none.json",
        f"{AZURE}/a": "no credentials for container photos@fruits.* at .*account fruits,: set AZURE_STORAGE",
    }.items():
        with pytest.raises(AccessDenied, match=said):
            open_storage(url, S3Options(timeout=60)).read("1.jpg")
    assert time.monotonic() - started < 20
