"""One rule says what is secret; it is held to many spellings, and to words that are none."""

import io
import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from orchard import cli, progress, summary
from orchard.commandline import outcome
from orchard.errors import UsageError
from orchard.layout import Run
from orchard.output import Output
from orchard.redaction import HIDDEN, is_secret, redacted, without_secrets
from orchard.report import reproduce
from orchard.settings import Settings

SECRETS = """
accessKey access.key access-key-id accesskey AccessKeyId AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN
passwd password PASSWORD dbPassword db_passwd pwd pass user.pass passphrase private_key privateKey private-key
PRIVATEKEY api_key apikey apiKey APIKey x-api-key auth basic.auth oauth oauth2 oauthToken bearer sas sasToken token
tokens credential credentials session_token sessionToken signature X-Amz-Signature X-Amz-Credential
X-Amz-Security-Token sig keystore.password keyStorePassword spark.ssl.keyPassword spark.ssl.trustStorePassword
connection_string connectionString ConnectionString client_secret clientSecret AccountKey SharedAccessKey
encryption.key signing_key ssh_key jwt cookie authorization spark.hadoop.fs.s3a.access.key
spark.hadoop.fs.s3a.secret.key spark.hadoop.fs.s3a.bucket.photos.accessKey
spark.hadoop.fs.azure.account.key.store.dfs.core.windows.net spark.authenticate.secret
fs.s3a.server-side-encryption.key spark.kubernetes.authenticate.driver.oauthToken
"""

OTHERS = """
keyboard monkey passenger compass author authority tokenizer tokenize tokenise secretary key keys primary_key
partition.key passes bypass sash sashimi signal sigma design assign donkey hockey turkey
spark.hadoop.fs.s3a.access.style spark.hadoop.fs.s3a.path.style.access spark.hadoop.fs.s3a.endpoint
spark.executor.memory spark.authenticate spark.io.encryption.keySizeBits spark.io.encryption.enabled
spark.sql.shuffle.partitions spark.kubernetes.authenticate.driver.serviceAccountName spark.network.crypto.cipher
spark.ssl.keyStore limit labels backbone classifiers max_rejected weights s3_endpoint test_fraction retry_rejected
driver_memory
"""

VALUES = [
    ("https://ann:hunter2@example.com/photos", "hunter2"),
    ("http://ann:p@ss@example.com", "p@ss"),
    ("s3a://AKIAIOSFODNN7EXAMPLE:abc/def+ghi@bucket/photos", "abc/def"),
    ("https://bucket.example.com/a.jpg?X-Amz-Credential=AB%2F1&X-Amz-Signature=0f0f0f&x=1", "0f0f0f"),
    ("https://store.example.net/c/a.jpg?sv=2024&sig=q%2Bw3", "q%2Bw3"),
    ("https://example.com/a?token=t0psecret#end", "t0psecret"),
    ("DefaultEndpointsProtocol=https;AccountName=fruit;AccountKey=Zm9v==;Suffix=x", "Zm9v"),
    ("Endpoint=sb://fruit;SharedAccessKeyName=root;SharedAccessKey=Zm9v=", "Zm9v"),
    ("spark.hadoop.fs.s3a.secret.key=hunter2", "hunter2"),
    ("--spark-conf 'password=hun ter2'", "ter2"),
    ('password="hun ter2" is it', "ter2"),
    ('{"secretKey": "hun\\"ter2"}', "ter2"),
    ("{'accessKey': 'hunter2', 'b': 'c'}", "hunter2"),
    ("the key AKIAIOSFODNN7EXAMPLE is old", "AKIAIOSFODNN7EXAMPLE"),
    ("ASIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabcd\n-----END RSA PRIVATE KEY----- end", "MIIE"),
    ("-----BEGIN PRIVATE KEY-----\nMIIE", "MIIE"),
    ("Authorization: Bearer abc", "abc"),
    ("authorization: Basic YW5uOmh1bnRlcjI=", "YW5uOmh1bnRlcjI"),
    ("curl with Bearer 0123456789abcdef0", "0123456789abcdef0"),
    ("ghp_0123456789abcdefABCDEF", "ghp_0123456789abcdefABCDEF"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "c2ln"),
]

PLAIN = [
    "s3a://bucket/photos/Lemon/1.jpg",
    "abfss://container@account.dfs.core.windows.net/photos",
    "http://localhost:9000/a@b",
    "http://localhost:9000",
    "http://[::1]:9000/x?y=1&page=2",
    "The store refuses the credentials: check AWS_ACCESS_KEY_ID and its secret.",
    "Basic authentication is no token: log in again.",
    "-Dlog4j2.configurationFile=file:///opt/x -XX:Tier4InvocationThreshold=50000",
    "monkey=1&keyboard=2",
    "photos/a=b;c/1.jpg",
    '{"event": "started", "stage": "list"}',
]


@pytest.mark.parametrize("name", SECRETS.split())
def test_a_name_that_tells_of_a_secret(name: str) -> None:
    assert is_secret(name)
    assert is_secret(name.upper()) or name != name.lower()
    assert without_secrets({"settings": {"spark_conf": {name: "hunter2"}}}) == {
        "settings": {"spark_conf": {name: HIDDEN}}
    }
    assert "hunter2" not in redacted(f"https://example.com/?a=1&{name}=hunter2&b=2")


@pytest.mark.parametrize("name", OTHERS.split())
def test_a_name_that_tells_of_none(name: str) -> None:
    assert not is_secret(name)
    assert without_secrets({name: "red"}) == {name: "red"}


@pytest.mark.parametrize(("text", "secret"), VALUES)
def test_a_value_that_looks_like_a_secret(text: str, secret: str) -> None:
    assert secret not in redacted(text)
    assert secret not in json.dumps(without_secrets({"weights": [text]}))
    assert HIDDEN in redacted(text)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_long_text_takes_no_time() -> None:
    """Every line of the log goes through it, an exception's text too."""
    for text in ("a" * 200_000, "://" + ":" * 100_000, "a=" * 100_000, "-----BEGIN A-----" * 5_000, '"a": "' * 50_000):
        redacted(text)


HIDE = {
    "spark.hadoop.fs.s3a.accessKey": "hunter2",
    "db.passwd": "hunter2",
    "ssl.private_key": "hunter2",
    "a.b": "clear",
}


def test_no_file_that_leaves_has_a_secret(tmp_path: Path) -> None:
    """run.json, and the page's command and settings, made of it or of an older one that was less careful."""
    settings = Settings(
        spark_conf=HIDE,
        s3_endpoint="http://ann:hunter2@127.0.0.1:9000",
        weights="https://example.com/w?sig=hunter2",
        webhook="https://chat.example.com/hooks/hunter2",
    )
    run = summary.run(Output(str(tmp_path / "out")), settings, started=datetime.now(UTC), usage={})
    assert "hunter2" not in summary.as_json(run).decode()
    conf = run["settings"]["spark_conf"]
    assert isinstance(conf, dict) and conf["a.b"] == "clear"
    older: Run = {**run, "source": "s3a://ann:hunter2@b", "settings": settings.model_dump(mode="json")}
    for text in (
        reproduce.command(older),
        *(reproduce.shown(value, name) for name, value in older["settings"].items()),
    ):
        assert "hunter2" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "s3a://b/x", "-o", "out", "--s3-endpoint", "http://ann:hunter2@127.0.0.1:1", "--s3-region", "x"),
        ("plan", "http://ann:hunter2@host/x?X-Amz-Signature=hunter2"),
        ("run", "x", "-o", "out", "--spark-conf", "password:hunter2"),
        ("run", "x", "-o", "out", "secretKey=hunter2"),
        ("run", "nowhere?token=hunter2", "-o", "out", "--spark-conf", "fs.s3a.secret.key=hunter2"),
        ("report", "postgres://ann:hunter2@host/out"),
        ("submit", "s3a://b/x", "-o", "out", "--spark-conf", "password=hunter2", "--tags", "secret:hunter2"),
    ],
)
def test_no_sentence_and_no_traceback_has_a_secret(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("ORCHARD_STORAGE_TIMEOUT", "0.1")
    monkeypatch.setattr(sys, "argv", ["orchard", *arguments, "--debug"])
    code, sentence = outcome(cli.cli, None)
    assert code in (2, 3, 4)
    shown = capfd.readouterr()
    assert shown.err
    assert "hunter2" not in f"{shown.err}{shown.out}{sentence}"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_log_has_no_secret(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    log = logging.getLogger("orchard")
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=terminal, width=500))
    monkeypatch.setattr(sys, "stderr", written)
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(log, name, getattr(log, name))
    progress.configure_logging(debug=True)
    log.info("listing %s", "s3a://ann:hunter2@bucket", extra={"fields": {"password": "hunter2", "stage": "list"}})
    try:
        raise ValueError("fs.s3a.secret.key=hunter2 is wrong")
    except ValueError:
        log.exception("failed")
    assert "listing" in written.getvalue() and "ValueError" in written.getvalue()
    assert "hunter2" not in written.getvalue()


def test_the_error_itself_has_no_secret() -> None:
    assert str(UsageError("https://ann:hunter2@host/x cannot be")) == f"https://{HIDDEN}@host/x cannot be"
