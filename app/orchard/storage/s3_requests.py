"""Signed requests for what obstore cannot name or list.

obstore refuses a whole listing for one key such as ``a//b``, and takes ``/a`` for ``a``.
"""

import functools
import os
import re
import ssl
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import quote, unquote_plus, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3

from orchard.errors import StorageError
from orchard.storage.aws import Credentials
from orchard.storage.connection import Found, Page
from orchard.storage.s3_errors import Refused

# What is no XML, though stores that do not know encoding-type=url send it; tab and line ends are.
_NO_XML = re.compile(
    rb"&#0*(?:[0-8]|1[1-24-9]|2\d|3[01]|x0*(?:[0-8bcefBCEF]|1[0-9a-fA-F]));|[\x00-\x08\x0b\x0c\x0e-\x1f]"
)
_NONE: Mapping[str, str] = {}


class Requests:
    """Requests to a bucket at the URL ``root``.

    Args:
        root: the bucket's URL, such as ``https://host/bucket``.
        region: the region that requests are signed for.
        credentials: keys to sign requests with; None: requests are not signed.
        certificates: further certificate authorities to trust, in PEM.
    """

    def __init__(
        self, root: str, region: str, credentials: Credentials | None, certificates: bytes | None = None
    ) -> None:
        self._root, self._region = root, region
        self._credentials, self._certificates = credentials, certificates

    def page(self, prefix: str, after: object | None) -> Page:
        """The objects whose keys begin with ``prefix``; ``after`` is the ``next`` of the page before."""
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix, "continuation-token": after}
        try:
            return _parsed(self.send("GET", "", {name: str(value) for name, value in query.items() if value}).data)
        except Refused as error:
            raise Refused(f"list request: {error}") from error

    def region(self) -> str | None:
        """The bucket's region, which S3 tells even without permission to read. None: this server does not tell it."""
        head = self._answer("HEAD", "")
        if head.status >= 500:
            raise Refused.answer(head.status, head.reason, b"")
        if told := head.headers.get("x-amz-bucket-region"):
            return told
        location = self._answer("GET", "", {"location": ""})
        if location.status in (403, 405, 501):
            return None
        found = _xml(_successful(location).data)
        if not found.tag.endswith("LocationConstraint"):
            return None
        return {"": "us-east-1", "EU": "eu-west-1"}.get((found.text or "").strip(), found.text)

    def send(
        self, method: str, key: str, query: Mapping[str, str] = _NONE, headers: Mapping[str, str] = _NONE
    ) -> urllib3.BaseHTTPResponse:
        """The answer for exactly this key. Raises Refused if it is no success, urllib3's HTTPError if none comes."""
        return _successful(self._answer(method, key, query, headers))

    def _answer(
        self, method: str, key: str, query: Mapping[str, str] = _NONE, headers: Mapping[str, str] = _NONE
    ) -> urllib3.BaseHTTPResponse:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import ReadOnlyCredentials

        at_root = not urlsplit(self._root).path  # the bucket is in the host's name: a request needs a path all the same
        path = "/" + quote(key, safe="/~") if key or at_root else ""
        if query:
            path += "?" + urlencode(sorted(query.items()), quote_via=quote, safe="~")
        request = AWSRequest(method, self._root + path, headers=dict(headers))
        if os.environ.get("AWS_REQUEST_PAYER"):
            request.headers["x-amz-request-payer"] = "requester"
        if self._credentials is not None:
            keys = self._credentials()
            known = ReadOnlyCredentials(keys["access_key_id"], keys["secret_access_key"], keys.get("token"))
            S3SigV4Auth(known, "s3", self._region).add_auth(request)
        # By the pool itself: its manager would shorten a/../b.
        pool, start = self._pool
        return pool.urlopen(method, start + path, headers=dict(request.headers.items()), retries=False, redirect=False)

    @functools.cached_property
    def _pool(self) -> tuple[urllib3.HTTPConnectionPool, str]:
        """The connections, and how the target of a request begins."""
        url = urlsplit(self._root)
        options: dict[str, Any] = {"maxsize": 16, "timeout": urllib3.Timeout(connect=3, read=60)}
        if url.scheme == "https":  # as obstore does: whom this system trusts, and others beside them
            context = options["ssl_context"] = ssl.create_default_context()
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            context.load_verify_locations(certifi.where())
            if self._certificates:
                context.load_verify_locations(cadata=self._certificates.decode())
        proxy = None if _is_direct(url.hostname or "") else getproxies().get(url.scheme)
        if proxy is None:
            return urllib3.PoolManager(**options).connection_from_url(self._root), url.path
        pool = urllib3.ProxyManager(proxy, **options).connection_from_url(self._root)
        return pool, self._root if url.scheme == "http" else url.path


def _is_direct(host: str) -> bool:
    """Whether no proxy is to be used for `host`: as obstore does, of an address by its network too, `10.0.0.0/8`."""
    if proxy_bypass(host):
        return True
    for network in getproxies().get("no", "").split(","):
        with suppress(ValueError):  # one of the two is a name
            if ip_address(host) in ip_network(network.strip(), strict=False):
                return True
    return False


def _successful(answer: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
    if answer.status >= 300:
        raise Refused.answer(answer.status, answer.reason, answer.data)
    return answer


def _parsed(body: bytes) -> Page:
    try:
        root = _xml(body)
    except ET.ParseError:
        root = None
    if root is None or not root.tag.endswith("ListBucketResult"):
        raise StorageError("the endpoint does not answer as S3 does: check its host, port and path.")
    space = root.tag.removesuffix("ListBucketResult")
    is_quoted = root.findtext(f"{space}EncodingType") == "url"

    def found(entry: ET.Element) -> Found:
        key = entry.findtext(f"{space}Key", "")
        size, tag = entry.findtext(f"{space}Size", "0"), entry.findtext(f"{space}ETag", "")
        return Found(unquote_plus(key) if is_quoted else key, int(size), tag.strip('"'))

    following = root.findtext(f"{space}NextContinuationToken") or None
    if root.findtext(f"{space}IsTruncated") == "true" and following is None:
        raise StorageError("a listing ends in the middle: look at the server.")
    return Page([found(entry) for entry in root.iter(f"{space}Contents")], following)


def _xml(body: bytes) -> ET.Element:
    try:
        return ET.fromstring(body)  # noqa: S314 -- expat limits entities
    except ET.ParseError:
        return ET.fromstring(_NO_XML.sub("\N{REPLACEMENT CHARACTER}".encode(), body))  # noqa: S314
