"""The S3 server of the tests, a process of its own: `python server.py [endpoint]` prints its port, and ends when stdin closes.

In front of moto, or of the real server at `endpoint`, stands a gate. It makes writes of one key come one after the other, as S3
promises and moto does not keep (it looks whether a key exists, and only later writes), and it answers with faults when told to.
"""

from __future__ import annotations

import http.client
import io
import json
import logging
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.datastructures import EnvironHeaders
from werkzeug.serving import make_server

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

REFUSALS = {
    "slow-down": ("503 Slow Down", "SlowDown"),
    "internal-error": ("500 Internal Server Error", "InternalError"),
    "deny": ("403 Forbidden", "AccessDenied"),
}


class Fault:
    """One rule of what goes wrong; see `S3Server.fail`."""

    def __init__(
        self,
        kind: str,
        method: str,
        target: str,
        times: int | None,
        every: int,
        share: float,
        seed: int,
        seconds: float,
        bytes_per_s: float,
    ) -> None:
        self.kind, self.seconds, self.bytes_per_s = kind, seconds, bytes_per_s
        self.happened = 0
        self._asked = re.compile(f"(?:{method}) .*(?:{target})")
        self._times, self._every, self._share = times, every, share
        self._met = 0
        self._random = random.Random(seed)

    def strikes(self, asked: str) -> bool:
        """Return whether this request is one of those that go wrong."""
        if not self._asked.match(asked) or self.happened == self._times:
            return False
        self._met += 1
        if self._met % self._every or self._random.random() >= self._share:
            return False
        self.happened += 1
        return True


class Gate:
    """Lets requests through to an S3 application, one writer a key at a time, with faults."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._keys = [threading.Lock() for _ in range(64)]
        self._guard = threading.Lock()
        self._faults: list[Fault] = []
        self._requests: list[dict[str, str]] = []
        self._wire_free_s = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        method, target = environ["REQUEST_METHOD"], environ["REQUEST_URI"]
        if target.startswith("/_gate/"):
            return self._control(target, body, start_response)
        target = unquote(target)
        fault = self._note(method, target, environ)
        kind = fault.kind if fault else ""
        if kind in REFUSALS:
            status, code = REFUSALS[kind]
            start_response(status, [("Content-Type", "application/xml")])
            return (
                [] if method == "HEAD" else [f"<Error><Code>{code}</Code><Message>as the tests asked</Message></Error>".encode()]
            )
        if kind == "drop":
            hang_up(environ)
        if kind == "slow" and fault:
            time.sleep(fault.seconds)
        if kind == "ignore-conditions":
            environ = {k: v for k, v in environ.items() if k not in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH")}
        if method in ("GET", "HEAD"):
            answer = self._app(environ, start_response)
        else:
            with self._keys[hash(target.split("?")[0]) % len(self._keys)]:
                answer = list(self._app(environ, start_response))
        if kind == "slow" and fault:
            answer = list(answer)
            self._carry(len(body) + sum(map(len, answer)), fault.bytes_per_s)
        if kind == "lose-reply":
            hang_up(environ)
        return answer

    def _carry(self, size: int, bytes_per_s: float) -> None:
        """Wait until the one wire of all slow requests has carried so many bytes more."""
        with self._guard:
            self._wire_free_s = max(self._wire_free_s, time.monotonic()) + size / bytes_per_s
            wait = self._wire_free_s - time.monotonic()
        time.sleep(max(0.0, wait))

    def _note(self, method: str, target: str, environ: dict[str, Any]) -> Fault | None:
        key = re.search(r"Credential=([^/]+)", environ.get("HTTP_AUTHORIZATION", ""))
        agent = environ.get("HTTP_USER_AGENT", "").split("/")[0]
        with self._guard:
            self._requests.append({"method": method, "target": target, "key": key[1] if key else "", "agent": agent})
            return next((fault for fault in self._faults if fault.strikes(f"{method} {target}")), None)

    def _control(self, target: str, body: bytes, start_response: Callable[..., Any]) -> list[bytes]:
        with self._guard:
            if target == "/_gate/reset":
                self._faults, self._requests = [], []
            elif target == "/_gate/fail":
                self._faults.append(Fault(**json.loads(body)))
            state = {"happened": [fault.happened for fault in self._faults], "requests": self._requests}
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(state).encode()]


def hang_up(environ: dict[str, Any]) -> NoReturn:
    """End the connection without an answer."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("as the tests asked for")


def forward_to(endpoint: str) -> App:
    """Return an application that passes requests on, byte for byte, so that their signatures stay right."""
    host = urlsplit(endpoint).netloc

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        connection = http.client.HTTPConnection(host, timeout=60)
        headers = {name: value for name, value in EnvironHeaders(environ) if name.lower() not in ("connection", "expect")}
        connection.request(environ["REQUEST_METHOD"], environ["REQUEST_URI"], environ["wsgi.input"].read(), headers)
        answer = connection.getresponse()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in ("connection", "transfer-encoding")]
        start_response(f"{answer.status} {answer.reason}", kept)
        body = answer.read()
        connection.close()
        return [body]

    return app


def main() -> None:
    sys.setswitchinterval(1e-4)  # threads change often, so that a race between them shows
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = forward_to(sys.argv[1]) if sys.argv[1:] else DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, Gate(app), threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()  # ends when the tests end, however they end


if __name__ == "__main__":
    main()
