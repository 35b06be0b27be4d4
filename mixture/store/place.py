"""Where a lake's Parquet files are: a folder, or a prefix of an S3 bucket. Loads no duckdb.

Keys come from the environment, an AWS profile or the machine's role; nothing of ours ever holds one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as fs

from mixture.errors import StoreError, UsageError

S3 = "s3://"
# The server of the S3 protocol where it is not Amazon's, as Amazon's own tools read it.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


def checked(data: str | os.PathLike[str]) -> str:
    """`s3://bucket/prefix` or a folder, absolute and with a slash at its end. Raises `UsageError` for other schemes,
    and for a bucket without a prefix, which would be the store's alone."""
    text = str(data)
    if text.startswith(S3):
        bucket, _, prefix = text.removeprefix(S3).strip("/").partition("/")
        if not prefix or re.search(r"[?#*\s]|//", prefix):
            raise UsageError(f"`data` is {text!r}; write s3://bucket/prefix")
        return f"{S3}{bucket}/{prefix}/"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        raise UsageError(f"`data` is {text.partition(':')[0] + ':…'!r}; allowed: a folder, s3://bucket/prefix")
    return f"{Path(text).expanduser().resolve()}/"


def file_system(data: str) -> fs.FileSystem:
    """The files of a place; paths are relative to it. Raises `StoreError` where the bucket cannot be reached."""
    if not data.startswith(S3):
        return fs.SubTreeFileSystem(data, fs.LocalFileSystem())
    scheme, endpoint = _endpoint() or (None, None)
    with reached(data):
        whole = fs.S3FileSystem(endpoint_override=endpoint, scheme=scheme, region=_region())
    return fs.SubTreeFileSystem(data.removeprefix(S3), whole)


def is_empty(data: str) -> bool:
    """Whether nothing is at a place. Raises `StoreError` where the bucket cannot be reached."""
    files = file_system(data)
    with reached(data):
        bucket = data.removeprefix(S3).partition("/")[0]
        if data.startswith(S3) and files.base_fs.get_file_info(bucket).type == fs.FileType.NotFound:
            raise StoreError(f"{data} cannot be reached: there is no such bucket, or it is not yours")
        return not files.get_file_info(fs.FileSelector("", allow_not_found=True))


@contextmanager
def reached(data: str) -> Iterator[None]:
    """What fails inside, because a place does not answer or refuses, is a `StoreError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        why = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise StoreError(f"{data} cannot be reached: {why}") from error


def extensions(data: str) -> tuple[str, ...]:
    """DuckDB's, that reading and writing a place needs."""
    return ("httpfs", "aws") if data.startswith(S3) else ()


def access(data: str) -> str:
    """The SQL that lets DuckDB at a place: a secret for this prefix alone, whose keys DuckDB finds itself."""
    if not data.startswith(S3):
        return ""
    from mixture.store.query import quote

    options = ["TYPE s3", "PROVIDER credential_chain", f"SCOPE {quote(data)}"]
    if found := _endpoint():
        scheme, endpoint = found
        options += [f"ENDPOINT {quote(endpoint)}", "URL_STYLE 'path'", f"USE_SSL {str(scheme == 'https').lower()}"]
    if region := _region():
        options.append(f"REGION {quote(region)}")
    if profile := os.environ.get("AWS_PROFILE"):
        options.append(f"PROFILE {quote(profile)}")
    return f"CREATE OR REPLACE SECRET lake_data ({', '.join(options)});"


def _endpoint() -> tuple[str, str] | None:
    """Scheme and host of a server that is not Amazon's."""
    url = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if url is None:
        return None
    parts = urlsplit(url if "://" in url else f"https://{url}")
    return parts.scheme, parts.netloc + parts.path.rstrip("/")


def _region() -> str | None:
    named = next((os.environ[name] for name in REGIONS if os.environ.get(name)), None)
    return named or ("us-east-1" if _endpoint() else None)
