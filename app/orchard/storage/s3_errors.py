"""Turns an object store's errors into sentences that say what to do.

obstore's exceptions carry the server's answer as text alone, and few of them are Python's own (FileNotFoundError is,
PermissionDeniedError is no PermissionError), so this reads the text.
"""

import os
import re
from dataclasses import dataclass

from urllib3.exceptions import HTTPError, NameResolutionError, SSLError

from orchard.errors import AccessDenied, BucketMissing, OrchardError, RegionRefused, StorageError
from orchard.storage.aws import Unreachable
from orchard.storage.interface import S3Options


@dataclass(frozen=True)
class Words:
    """Words of one kind of store, for messages.

    Attributes:
        bucket: its word for a bucket.
        none: what to do if there are no credentials.
        keys: what to check if the credentials are refused.
        reading, writing, listing: the permissions for these.
    """

    bucket: str
    none: str
    keys: str
    reading: str
    writing: str
    listing: str


WORDS = {
    "s3a": Words(
        "bucket",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the pod or machine a role.",
        "check AWS_ACCESS_KEY_ID and its secret",
        reading="s3:GetObject",
        writing="s3:PutObject and s3:DeleteObject",
        listing="s3:ListBucket",
    ),
    "gs": Words(
        "bucket",
        "set GOOGLE_APPLICATION_CREDENTIALS, log in (gcloud auth application-default login),"
        " or give the pod or machine a service account.",
        "check the service account or its key, or log in (gcloud auth application-default login)",
        reading="storage.objects.get (the role Storage Object Viewer)",
        writing="storage.objects.create and storage.objects.delete (the role Storage Object User)",
        listing="storage.objects.list (the role Storage Object Viewer)",
    ),
    "abfss": Words(
        "container",
        "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, log in (az login) and set AZURE_USE_AZURE_CLI=true,"
        " or give the pod or machine a managed identity.",
        "check the account's key, token or identity, and its network rules",
        reading="the role Storage Blob Data Reader",
        writing="the role Storage Blob Data Contributor",
        listing="the role Storage Blob Data Reader",
    ),
}
# obstore's words before it has asked the store.
_IDENTITY = re.compile(
    r"Generic \w+ error: (Error performing token request|Error reading federated token file|.*service account file"
    r"|'az account get-access-token'|Invalid Access Key)"
)
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName", "ContainerNotFound"}
_BAD_CREDENTIALS = {
    "AccountProblem",
    "AuthenticationFailed",
    "AuthorizationFailure",  # Azure: the account's network rules; Azurite: the key
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "InvalidClientTokenId",
    "InvalidToken",
    "NoAuthenticationInformation",
    "NotSignedUp",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "XAdminUserNotFound",  # versitygw
}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_BUSY_STATUS = {408, 429, 500, 502, 503, 504}
_BUSY = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "PendingCopyOperation",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServerBusy",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
# What of one object can be the matter, beside the permission to read it.
_REMEDIES = {
    "InvalidObjectState": "it is archived, restore it first",
    "KMS": "allow its key, kms:Decrypt",
    "kms": "allow its key, kms:Decrypt",
}
# obstore's text for an exception of its credential provider.
_PROVIDER = "External AWS credential provider: "


def _in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _secret() -> str:
    """Return where a pod has its keys from; its variables cannot be set in it."""
    if not _in_pod():
        return ""
    return "; a pod has its keys from the Secret that the chart's s3.existingSecret names (orchard submit: --s3-secret)"


class Refused(Exception):
    """A server's answer with a status other than success, as obstore's errors describe it."""

    @classmethod
    def answer(cls, status: int, reason: str | None, body: bytes) -> "Refused":
        """The text of the server's answer."""
        text = body[:10_000].decode("utf-8", "replace")
        return cls(f"Server returned non-2xx status code: {status} {reason or ''}: {text}")


def code(error: Exception) -> str:
    """The server's error code, such as ``NoSuchBucket``; empty if it gives none."""
    found = re.search(r"<Code>([\w.]+)</Code>|\(code: ([\w.]+)\)", _text(error))
    return found[1] or found[2] if found else ""


def passes(error: Exception) -> bool:
    """Whether the error is temporary: the same request may succeed a little later."""
    text = _text(error)
    if isinstance(error, Unreachable) or f"{_PROVIDER}{Unreachable.__name__}" in text:
        return True
    if isinstance(error, OrchardError | SSLError) or _distrusted(error):
        return False
    if _is_of_identity(text):  # a pod's may not be there yet; a machine that has none will have none
        return _in_pod()
    if isinstance(error, HTTPError) or "HTTP error" in text or "operation timed out" in text:
        return True
    return _status(text) in _BUSY_STATUS or code(error) in _BUSY


def names_nobody(error: Exception) -> bool:
    """Whether the error says that the endpoint's host name cannot be resolved."""
    return isinstance(error, NameResolutionError) or '"dns error"' in str(error) or "NameResolutionError" in str(error)


def answers(error: Exception) -> bool:
    """Whether the error is an answer of the server."""
    return bool(_status(_text(error)))


def is_mute(error: Exception) -> bool:
    """Whether the answer gives no reason: one to HEAD has no body, so the object or the credentials may be at fault."""
    return _status(_text(error)) in (400, 403) and not code(error)


def reason(error: Exception) -> str:
    """A short reason why a request failed with a temporary error."""
    text = _text(error)
    for sign, words in {
        "ConnectionRefused": "connection refused",
        "Connection refused": "connection refused",
        '"dns error"': "its name does not resolve",
        "NameResolutionError": "its name does not resolve",
        "TimedOut": "no answer in time",
        "timed out": "no answer in time",
        "body error": "an answer was cut off",
        "Connection broken": "an answer was cut off",
    }.items():
        if sign in str(error):
            return words
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    return code(error) or (status[1].strip() if status else "no connection")


def store_failure(
    error: Exception, s3: S3Options, bucket: str, scheme: str, *, was_taken: bool = False
) -> StorageError | None:
    """The StorageError for an error of the whole store; None if ``error`` may concern only one key.

    With ``was_taken``, the store has taken the credentials before.
    """
    if isinstance(error, StorageError) and not isinstance(error, AccessDenied):
        return error
    s3 = s3.resolved()
    where, words = place(s3, scheme, bucket), WORDS[scheme]
    named = f"{words.bucket} {bucket}"
    return (
        _misplaced(error, where, named, s3.region)
        or (_changed(error, where, words) if was_taken else None)
        or _refusal(error, where, named, words)
        or _trouble(error, where, named)
    )


def _misplaced(error: Exception, where: str, bucket: str, region: str | None) -> StorageError | None:
    """Return the error of a bucket that is not there, or not in the region; None for any other."""
    text, name = _text(error), code(error)
    if name in _NO_BUCKET:
        return BucketMissing(f"{bucket} does not exist at {where}: check its name or create it.")
    if name in _OTHER_REGION or _status(text) == 301 or "redirect without LOCATION" in text:
        return RegionRefused(f"{bucket} is not in region {region}: set the bucket's region.")
    return None


def refuses_keys(error: Exception) -> bool:
    """Whether the store answers that it does not know the credentials, or not any more."""
    return code(error) in _BAD_CREDENTIALS or _status(_text(error)) == 401


def _changed(error: Exception, where: str, words: Words) -> StorageError | None:
    """Return the error of credentials that were changed meanwhile; no AccessDenied: another driver has the new ones."""
    if not refuses_keys(error):
        return None
    as_then = f"{_secret()}, as they were when it started" if _in_pod() else ""
    said = f"refuses the credentials ({code(error) or 401}), which it took before"
    return StorageError(f"{where} {said}: {words.keys}{as_then}.")


def _refusal(error: Exception, where: str, bucket: str, words: Words) -> StorageError | None:
    """Return the error of credentials that the store refuses, or that are not there; None for any other."""
    text, name, status = _text(error), code(error), _status(_text(error))
    if _is_of_identity(text):
        text = f"{words.none.rstrip('.')} ({text.partition('error: ')[2].partition(' in ')[0].strip()[:200]})."
        error = AccessDenied(text)
    if isinstance(error, AccessDenied) or f"{_PROVIDER}{AccessDenied.__name__}" in text:
        cause = text.rpartition(f"{AccessDenied.__name__}: ")[2]
        return AccessDenied(f"no credentials for {bucket} at {where}: {cause.rstrip('.')}{_secret()}.")
    if refuses_keys(error):
        return AccessDenied(f"{where} refuses the credentials ({name or 401}): {words.keys}{_secret()}.")
    if name == "RequestTimeTooSkewed":
        return AccessDenied(f"{where} refuses the credentials ({name}): set this machine's clock.")
    if "list request" in text and status == 403:
        return AccessDenied(f"{bucket} may not be listed with these credentials: allow {words.listing}.")
    return None


def _trouble(error: Exception, where: str, bucket: str) -> StorageError | None:
    text, name, status = _text(error), code(error), _status(_text(error))
    if isinstance(error, SSLError) or _distrusted(error):
        sentence = f"the certificate of {where} is not trusted: name the file of its authority in AWS_CA_BUNDLE."
    elif isinstance(error, Unreachable) or f"{_PROVIDER}{Unreachable.__name__}" in text:
        cause = text.rpartition(f"{Unreachable.__name__}: ")[2][:200]
        sentence = f"the service that gives out the credentials for {bucket} does not answer: {cause}."
    elif names_nobody(error):
        sentence = f"{where} does not answer: its name does not resolve, check the endpoint and the network."
    elif passes(error) and not status:
        sentence = f"{where} does not answer: check the endpoint and the network, and that the server runs."
    elif isinstance(error, ValueError) or "path segment" in text:
        sentence = f"{bucket}: {text[:200]}: rename the key, no part of it may be empty, '.' or '..'."
    elif isinstance(error, FileNotFoundError) or (
        400 <= status < 500 and not passes(error) and "list request" not in text
    ):
        return None
    else:
        sentence = f"{where} failed for {bucket} ({_detail(text, name)}): try again, or look at the server."
    return StorageError(sentence)


def key_failure(error: Exception, url: str) -> OSError:
    """The FileNotFoundError, PermissionError or other OSError for the object at ``url``."""
    text, name, status = _text(error), code(error), _status(_text(error))
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(2, "no such object", url)
    remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in text), None)
    if status == 403 or remedy:
        return PermissionError(13, f"access denied{_said(text)}" + (f": {remedy}" if remedy else ""), url)
    return OSError(5, f"the store refuses it{_said(text) or f' ({_detail(text, name)})'}", url)


def place(s3: S3Options, scheme: str, bucket: str) -> str:
    """The store's name in a sentence."""
    if scheme == "gs":
        return s3.gcs_endpoint or "Google Cloud Storage"
    if scheme == "abfss":
        account = bucket.rpartition("@")[2].partition(".")[0]
        return s3.azure_endpoint or f"Azure Storage, account {account},"
    return s3.endpoint or f"Amazon S3 in {s3.region}"


def _is_of_identity(text: str) -> bool:
    """Whether obstore failed to get a token, before it asked the store."""
    return _IDENTITY.match(text) is not None


def _detail(text: str, name: str) -> str:
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    return name or (status[1].strip() if status else text[:200])


def _said(text: str) -> str:
    """The server's code and message in brackets, which name the object's state, or who may not do what."""
    found = [re.search(f"<{tag}>([^<]+)</{tag}>", text) for tag in ("Code", "Message")]
    words = ": ".join(part[1].strip()[:200] for part in found if part)
    return f" ({words})" if words else ""


def _status(text: str) -> int:
    found = re.search(r"status code: (\d{3})", text)
    denied = "(code: AccessDenied)" in text  # one of many that were to be deleted at once
    return int(found[1]) if found else 403 if denied else 0


def _distrusted(error: Exception) -> bool:
    return "InvalidCertificate" in str(error) or "CERTIFICATE_VERIFY_FAILED" in str(error)


def _text(error: Exception) -> str:
    return str(error).split("\n\nDebug source", maxsplit=1)[0]
