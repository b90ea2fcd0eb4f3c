"""A server on this machine that speaks S3, and what a client has to know to find it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def serve_bucket(monkeypatch: pytest.MonkeyPatch, folder: Path, *, bucket: str) -> Iterator[str]:
    """The files of a folder as objects; gives the address of the bucket while the server runs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    try:
        client.create_bucket(Bucket=bucket)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(
                    Bucket=bucket, Key=f"{folder.name}/{path.relative_to(folder)}", Body=path.read_bytes()
                )
        yield f"s3://{bucket}/{folder.name}"
    finally:
        client.close()
        server.stop()
