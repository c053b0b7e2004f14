"""Keys, region and endpoint come from wherever the standard AWS chain looks; each test is told by the server's log."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchard.errors import AccessDenied, StorageError
from orchard.storage import S3Options, open_storage
from orchard.storage.aws import Credentials
from orchard.storage.s3_connection import reconnect
from waiting import wait_until

from .stub import Stub, error


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A user whose environment says nothing about AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    reconnect()
    yield tmp_path
    reconnect()


def _config(home: Path, text: str, name: str = "config") -> None:
    (home / ".aws" / name).write_text(text)


@pytest.fixture
def signed(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """The server, which notes who signs, and for which region."""

    def check(authorization: str) -> Any:
        found = re.search(r"Credential=([^/]+)/\d+/([^/]+)/s3", authorization)
        stub.signers.append((found[1], found[2]) if found else None)
        return None

    stub.check = check
    stub.objects = {"a": b"1", "a//b": b"2"}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return stub


def _use(stub: Stub, options: S3Options | None = None) -> set[tuple[str, str] | None]:
    """Who signs when everything is read, by obstore and by ourselves."""
    stub.signers.clear()
    storage = open_storage("s3a://b", options or S3Options(stub.options.endpoint))
    assert [storage.read(entry.key) for entry in storage.list()] == [b"1", b"2"]
    return set(stub.signers)


def test_keys_and_region_of_a_profile_in_the_config(signed: Stub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _config(home, "[profile work]\naws_access_key_id = WORK\naws_secret_access_key = s%1\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert _use(signed) == {("WORK", "eu-west-3")}


def test_keys_of_the_shared_credentials_file(signed: Stub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _config(home, "[default]\naws_access_key_id = FILE\naws_secret_access_key = s\n", "credentials")
    assert _use(signed) == {("FILE", "us-east-1")}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    reconnect()
    assert _use(signed) == {("ENV", "eu-north-1")}


def test_keys_of_a_process_and_of_the_region_given(signed: Stub, home: Path) -> None:
    keys = {"Version": 1, "AccessKeyId": "PROCESS", "SecretAccessKey": "s", "SessionToken": "t"}
    (home / "keys.json").write_text(json.dumps(keys))
    _config(home, f"[default]\ncredential_process = cat {home}/keys.json\nregion = eu-west-3\n")
    assert _use(signed, S3Options(signed.options.endpoint, "ap-east-1")) == {("PROCESS", "ap-east-1")}


def test_endpoint_and_services_of_a_profile(signed: Stub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = "aws_access_key_id = K\naws_secret_access_key = s\n"
    services = f"[services minio]\ns3 =\n  endpoint_url = {signed.options.endpoint}\n"
    _config(
        home, f"[default]\n{keys}services = minio\n{services}[profile other]\n{keys}endpoint_url = http://other:1\n"
    )
    assert _use(signed, S3Options()) == {("K", "us-east-1")}
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert S3Options().resolved().endpoint == "http://other:1"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert S3Options().resolved().endpoint is None


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """AWS STS, as far as it gives out keys of roles; what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked.append(body)
            found = re.search(r"Action=(\w+)", body)
            assert found is not None
            action = found[1]
            expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            text = (
                f"<{action}Response><{action}Result><Credentials><AccessKeyId>ROLE{len(asked)}</AccessKeyId>"
                f"<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>{expires}</Expiration>"
                f"</Credentials></{action}Result></{action}Response>"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield asked
    server.shutdown()
    server.server_close()


def test_a_profile_with_a_role(signed: Stub, home: Path, sts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _config(
        home,
        "[profile base]\naws_access_key_id = BASE\naws_secret_access_key = s\n"
        "[profile work]\nrole_arn = arn:aws:iam::123456789012:role/reader\nsource_profile = base\nregion = eu-west-3\n",
    )
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert _use(signed) == {("ROLE1", "eu-west-3")}
    assert len(sts) == 1


def test_the_role_of_a_pod(signed: Stub, home: Path, sts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "token").write_text("a web identity")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert _use(signed) == {("ROLE1", "eu-west-3")}
    assert "AssumeRoleWithWebIdentity" in sts[0]


def test_keys_that_expire_are_replaced_in_time(home: Path) -> None:
    script = home / "keys.py"
    script.write_text(
        "import json, pathlib, datetime\n"
        f"count = pathlib.Path({str(home / 'count')!r})\n"
        "n = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(n))\n"
        "until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)\n"
        "keys = {'Version': 1, 'AccessKeyId': f'KEY{n}', 'SecretAccessKey': 's', 'Expiration': until.isoformat()}\n"
        "print(json.dumps(keys))\n"
    )
    _config(home, f"[default]\ncredential_process = {sys.executable} {script}\n")
    credentials = Credentials("us-east-1")
    first = credentials()["access_key_id"]
    assert [credentials()["access_key_id"] for _ in range(5)] == [first] * 5
    expires = credentials()["expires_at"]
    assert expires is not None and (expires - datetime.now(UTC)).total_seconds() < 303
    wait_until(lambda: credentials()["access_key_id"] != first, 20)


@pytest.mark.parametrize(("status", "code"), [(400, "ExpiredToken"), (403, "InvalidAccessKeyId")])
def test_keys_that_the_store_no_longer_takes_are_asked_for_again(
    signed: Stub, home: Path, status: int, code: str
) -> None:
    """A file that is mounted from a Secret changes with it."""
    _config(home, "[default]\naws_access_key_id = OLD\naws_secret_access_key = s\n", "credentials")
    assert _use(signed) == {("OLD", "us-east-1")}
    noted = signed.check
    signed.check = lambda header: noted(header) or (error(status, code) if "OLD" in header else None)
    _config(home, "[default]\naws_access_key_id = NEW\naws_secret_access_key = s\n", "credentials")
    assert ("NEW", "us-east-1") in _use(signed)
    _config(home, "[default]\naws_access_key_id = OLD\naws_secret_access_key = s\n", "credentials")
    reconnect()
    with pytest.raises(StorageError, match=f"refuses the credentials .{code}.*, which it took before"):
        open_storage("s3a://b", signed.options).read("a")


@pytest.mark.parametrize(
    ("config", "profile", "said"),
    [
        ("", None, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the pod or machine a"),
        ("", "missing", "missing"),
        ("[default]\ncredential_process = false\n", None, "check the AWS profile or role, or log in"),
        ("[default]\ncredential_process = no-such-command\n", None, "check the AWS profile or role, or log in"),
        ("[default]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n[sso-session s]\nsso_region = us-east-1\n"
         "sso_start_url = https://sso.invalid/start\n", None, "aws sso login"),
        ("no section", None, "check the AWS profile"),
    ],
)  # fmt: skip
def test_without_credentials_one_sentence_says_so_in_seconds(
    signed: Stub, home: Path, monkeypatch: pytest.MonkeyPatch, config: str, profile: str | None, said: str
) -> None:
    if config:
        _config(home, config)
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    started = time.monotonic()
    with pytest.raises(AccessDenied, match="no credentials for bucket b at http") as told:
        list(open_storage("s3a://b", S3Options(signed.options.endpoint, timeout=300)).list())
    assert time.monotonic() - started < 60
    assert said in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("home")
def test_in_a_pod_one_is_told_by_which_value_it_has_its_keys(signed: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(
        AccessDenied, match=r"give the pod or machine a role; .* the chart's s3\.existingSecret"
    ) as told:
        list(open_storage("s3a://b", S3Options(signed.options.endpoint, timeout=300)).list())
    assert str(told.value).endswith("(orchard submit: --s3-secret).")


def test_a_public_bucket_needs_none(signed: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert _use(signed) == {None}


def test_what_is_local_asks_nobody(home: Path) -> None:
    """A broken profile hinders no run on local files, and botocore takes time to import."""
    code = (
        "import sys; from orchard.settings import load; load().s3_options();"
        "from orchard.storage import open_storage; list(open_storage('.').list());"
        "assert not any(name.startswith('botocore') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=home)
    _config(home, "no section")
    code = "from orchard.settings import load; load().s3_options()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=home)


def test_pandas_reads_the_same_buckets() -> None:
    """For people: pandas and fsspec find s3fs."""
    import fsspec

    assert fsspec.get_filesystem_class("s3").__name__ == "S3FileSystem"
