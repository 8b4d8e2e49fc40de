"""Starts the S3 server of the tests and talks to it: buckets, faults, and what was asked of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.config

SERVER = Path(__file__).parent / "server.py"
REAL = os.environ.get("FOGX_TEST_S3")
"""Endpoint of a real S3 server to put behind the gate, in moto's place. Its access key and its secret key are `testing`."""


@dataclass(frozen=True)
class S3Server:
    """S3 on this machine; the environment points to it while a test has it."""

    endpoint_url: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which every library means this server by `s3://`."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def client(self) -> Any:
        """Return a boto3 client, to look at buckets past fogx."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            config=botocore.config.Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Return key → bytes of everything in a bucket."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def fail(
        self,
        kind: str,
        *,
        method: str = ".*",
        target: str = "",
        times: int | None = None,
        every: int = 1,
        share: float = 1.0,
        seed: int = 0,
        seconds: float = 0.0,
        bytes_per_s: float = math.inf,
    ) -> None:
        """Let some of the coming requests go wrong, until the test ends or `heal`.

        Args:
            kind: `slow-down` (503), `internal-error` (500), `deny` (403), `drop` (no answer, nothing was done), `lose-reply` (no
                answer, though it was done), `slow` (after `seconds`, and at `bytes_per_s`), `ignore-conditions` (`If-None-Match` and
                `If-Match` are not looked at).
            method: Regular expression of the HTTP methods concerned.
            target: Regular expression to be found in `/bucket/key?query`, percent-decoded.
            times: How often at most.
            every: Only each so-manieth of the requests concerned.
            share: Only this share of them, drawn with `seed`.
            seed: Seed of the draw.
            seconds: Delay of `slow`.
            bytes_per_s: How much all `slow` requests and answers together may carry.
        """
        rule = {"kind": kind, "method": method, "target": target, "times": times, "every": every, "share": share, "seed": seed}
        self._control("fail", {**rule, "seconds": seconds, "bytes_per_s": bytes_per_s})

    def happened(self) -> list[int]:
        """Return how many requests each `fail` has hit so far."""
        return list(self._control("state")["happened"])

    def requests(self) -> list[dict[str, str]]:
        """Return the requests since the test began: `method`, `target`, access `key` (empty: unsigned), and library (`agent`)."""
        return list(self._control("state")["requests"])

    def heal(self) -> None:
        """Take back every `fail`, and forget the requests."""
        self._control("reset")

    def reset(self) -> None:
        """Drop all buckets and faults."""
        self.heal()
        client = self.client()
        for bucket in client.list_buckets()["Buckets"]:
            name = bucket["Name"]
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
                keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
                if keys:
                    client.delete_objects(Bucket=name, Delete={"Objects": keys})
            client.delete_bucket(Bucket=name)
        self.heal()

    def _control(self, verb: str, body: object = None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.endpoint_url}/_gate/{verb}", json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))


@contextlib.contextmanager
def serving() -> Iterator[S3Server]:
    """Run a server process as long as the block lasts."""
    command = [sys.executable, str(SERVER), *([REAL] if REAL else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the S3 server did not start; is moto[server] installed?"
        yield S3Server(f"http://127.0.0.1:{port}")
        # Leaving the block closes stdin, at which the server ends, and waits for that.
