"""What an object store's error means to the person who meets it."""

import re

from orchard.errors import AccessDenied, BucketMissing, StorageError
from orchard.storage.interface import S3Options

_BAD_CREDENTIALS = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "XAdminUserNotFound",  # versitygw
}
_NO_CREDENTIALS = ("/latest/api/token", "/latest/meta-data", "CredentialsError", "credential provider")
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


def store_failure(error: Exception, s3: S3Options, bucket: str) -> StorageError | None:
    """The StorageError for what ails the whole store; None if ``error`` may concern one key only.

    obstore's exceptions carry the server's answer as text alone, so this reads the text.
    """
    text, code = _text(error), _code(error)
    s3 = s3.resolved()
    where = s3.endpoint or f"Amazon S3 in {s3.region}"
    sentence = None
    if code == "NoSuchBucket":
        return BucketMissing(f"bucket {bucket} does not exist at {where}: check its name or create it.")
    if code in _BAD_CREDENTIALS or "401 Unauthorized" in text:
        return AccessDenied(f"{where} refuses the credentials ({code or 401}): check AWS_ACCESS_KEY_ID and its secret.")
    elif any(sign in text for sign in _NO_CREDENTIALS):
        return AccessDenied(
            f"no credentials for bucket {bucket} at {where}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
            " or give the pod or machine a role."
        )
    elif code in _OTHER_REGION or "redirect without LOCATION" in text:
        sentence = f"bucket {bucket} is not in region {s3.region}: set the bucket's region."
    elif "list request" in text and (isinstance(error, PermissionError) or "403 Forbidden" in text):
        return AccessDenied(f"bucket {bucket} may not be listed with these credentials: allow s3:ListBucket.")
    elif isinstance(error, ValueError) or "path segment" in text:
        sentence = f"bucket {bucket}: {text[:200]}: rename the key, no part of it may be empty, '.' or '..'."
    elif "HTTP error" in text:
        sentence = f"{where} does not answer: check the endpoint and the network, and that the server runs."
    elif not isinstance(error, FileNotFoundError | PermissionError):
        status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
        detail = code or (status[1].strip() if status else text[:200])
        sentence = f"{where} failed for bucket {bucket} ({detail}): try again, or look at the server."
    return StorageError(sentence) if sentence else None


def key_failure(error: Exception, url: str) -> OSError:
    """The FileNotFoundError or PermissionError for the object at ``url``."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(2, "no such object", url)
    return PermissionError(13, "access denied", url)


def _text(error: Exception) -> str:
    return str(error).split("\n\nDebug source", maxsplit=1)[0]


def _code(error: Exception) -> str:
    code = re.search(r"<Code>(\w+)</Code>", _text(error))
    return code[1] if code else ""
