"""A verifier on another machine, and the server that shares one.

POST /verify with {"problem": {"answer", "choices"?, "verifier"?, "meta"?, ...}, "reply": "..."} and the header
`Authorization: Bearer TOKEN`; the answer is {"value": 0 to 1, "reason": "..."}. GET /health needs no token.
The client tries a bounded number of times, each for a bounded time in all, however slowly the bytes come, and then
raises EngineError: a verifier that cannot be reached is no wrong answer, and no reward is made up for it. An answer
may have a "detail" in words, and a refusal an "error": both reach the user. The server listens on the loopback address unless told otherwise
and does not start without a token.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import io
import json
import math
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from lmm_r1.errors import EngineError, Fault, RecipeError, printable, raised
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.worker import MAX_DETAIL, as_verdict, problem_of, record_of
from lmm_r1.seams import Verifier
from lmm_r1.types import Problem, Verdict

MAX_BODY = 4 << 20
MAX_ANSWER_BODY = 1 << 16
REPLACED_S = 30.0  # a server whose worker was killed starts another one before it serves the next call
TOKEN_VARIABLE = "LMM_R1_VERIFIER_TOKEN"


class _Bounded(io.RawIOBase):
    """The bytes of a socket until a moment: each read has the time that is left, so that a drip cannot go on."""

    def __init__(self, source: socket.socket, deadline: float) -> None:
        self._source, self._deadline = source, deadline
        self._bytes = source.makefile(
            "rb", buffering=0
        )  # holds the socket, which http.client may close before it is read

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Bytes read, 0 at the end. TimeoutError past the deadline."""
        self._source.settimeout(time_left(self._deadline))
        return self._bytes.readinto(buffer) or 0

    def close(self) -> None:
        """Let the socket go."""
        self._bytes.close()
        super().close()


def time_left(deadline: float) -> float:
    """Seconds until then, on the monotonic clock. TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _Answer(http.client.HTTPResponse):
    """A response whose head and body are read by a deadline."""

    def __init__(self, sock: socket.socket, *, deadline: float, method: str | None = None) -> None:
        super().__init__(sock, method=method)
        self.fp.close()  # of the whole response, without a deadline
        self.fp = io.BufferedReader(_Bounded(sock, deadline))


class RemoteVerifier:
    """A Verifier behind HTTP; any thread may call it. Raises RecipeError for an address or a token that cannot be used.

    limit_s: of each of `tries` requests, from its connection to the last byte of its answer.
    """

    def __init__(self, url: str, token: str, *, limit_s: float = 30.0, tries: int = 4, wait_s: float = 0.5) -> None:
        parts = urlsplit(url)
        try:
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
        except ValueError:  # a port that is no port
            usable = False
        if not usable or parts.username or parts.query:
            raise RecipeError(Fault(f"no address of a verifier: {url!r}", remedy="http://HOST:PORT or https://HOST"))
        if not token:
            raise RecipeError(Fault("a remote verifier needs a token", remedy=f"set {TOKEN_VARIABLE}"))
        self.url, self._token, self._parts = url, token, parts
        self._limit_s, self._tries, self._wait_s = limit_s, tries, wait_s
        self._closed = threading.Event()
        self._lock, self._open = threading.Lock(), set[socket.socket]()

    def __call__(self, problem: Problem, reply: str) -> Verdict:
        """The server's verdict. Raises EngineError after the last try, at once when the server refuses the request."""
        body = json.dumps({"problem": record_of(problem), "reply": reply}).encode()
        why = ""
        for attempt in range(self._tries):
            if attempt:
                self._closed.wait(self._wait_s * 2 ** (attempt - 1))
            if self._closed.is_set():
                raise RuntimeError("the remote verifier is closed")
            try:
                status, answer = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                try:
                    return _verdict_of(answer)
                except (ValueError, TypeError, KeyError) as error:
                    why = f"an answer that is no verdict ({error})"
                    continue
            why = f"status {status}{_told(answer)}"
            if 400 <= status < 500:  # trying again would not help
                break
        raise EngineError(
            Fault(
                f"the verifier gave no verdict: {why}", file=self.url, remedy="start it again, then the run: it resumes"
            )
        )

    def _post(self, body: bytes) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        deadline = time.monotonic() + self._limit_s
        connection = kind(str(self._parts.hostname), self._parts.port, timeout=self._limit_s)
        answer: Callable[..., http.client.HTTPResponse] = partial(_Answer, deadline=deadline)
        connection.response_class = answer  # type: ignore[assignment]  # it is called, and no more
        held: socket.socket | None = None
        try:
            connection.connect()
            held = connection.sock
            with self._lock:
                self._open.add(held)
            held.settimeout(time_left(deadline))  # of sending it all
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            connection.request("POST", self._parts.path.rstrip("/") + "/verify", body, headers)
            response = connection.getresponse()
            found = response.read(MAX_ANSWER_BODY + 1)
            if len(found) > MAX_ANSWER_BODY:
                raise OSError("the answer is too long")
            return response.status, found
        except TimeoutError as error:
            raise TimeoutError(f"no whole answer in {self._limit_s:g} s") from error
        finally:
            with self._lock:
                self._open.discard(held)  # type: ignore[arg-type]  # None is in no set
            connection.close()

    def close(self) -> None:
        """End the calls that are under way; who calls later gets RuntimeError."""
        self._closed.set()
        with self._lock:
            for held in self._open:
                with contextlib.suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)


def _verdict_of(answer: bytes) -> Verdict:
    found = json.loads(answer)
    value = found["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("the value is no number")
    return as_verdict(Verdict(value, found["reason"], str(found.get("detail") or "")))


def _told(answer: bytes) -> str:
    """What a server that gave no verdict says of it, ": " before it; "" when it says nothing that can be read."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    said = found.get("error") if isinstance(found, dict) else None
    return f": {printable(said)[:MAX_DETAIL]}" if isinstance(said, str) and said else ""


def own_verifier(problem: Problem, reply: str) -> Verdict:
    """The built-in verifier that the problem names."""
    return VERIFIERS[problem.verifier or "math"](problem, reply)


class VerifierServer(ThreadingHTTPServer):
    """Serves one verifier; `start()` in a thread, `stop()` ends it. Port 0 takes a free one."""

    daemon_threads = True

    def __init__(self, token: str, verifier: Verifier = own_verifier, host: str = "127.0.0.1", port: int = 0) -> None:
        if len(token) < 8:
            raise RecipeError(
                Fault("the server needs a token of at least 8 characters", remedy=f"set {TOKEN_VARIABLE}")
            )
        self.token, self.verifier = token, verifier
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Serve in the background."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End serving and free the port."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: VerifierServer
    timeout = 30.0  # of a client that sends nothing
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lmm-r1", ""

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/health" else 404, {"ok": self.path == "/health"})

    def do_POST(self) -> None:
        status, found = self._decided()
        self._answer(status, found)

    def _decided(self) -> tuple[int, dict[str, Any]]:
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self.server.token}".encode()):
            self.close_connection = True  # the body is not read
            return 401, {"error": "the token is missing or wrong"}
        if self.path != "/verify":
            self.close_connection = True
            return 404, {"error": "POST /verify"}
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            return 413, {"error": f"a body of at most {MAX_BODY} bytes with its Content-Length"}
        try:
            request = json.loads(self.rfile.read(int(length)))
            problem, reply = problem_of(request["problem"]), request["reply"]
            if not isinstance(reply, str) or (problem.verifier and problem.verifier not in VERIFIERS):
                raise ValueError("reply must be a string, verifier one of VERIFIERS")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return 400, {"error": f"no request: {type(error).__name__}: {error}"[:300]}
        try:
            verdict = as_verdict(self.server.verifier(problem, reply))
        except Exception as error:  # noqa: BLE001  someone's verifier: the server lives on, the client is told
            return 500, {"error": raised(error, self.server.verifier)}
        return 200, {"value": verdict.value, "reason": verdict.reason, "detail": verdict.detail}

    def _answer(self, status: int, found: dict[str, Any]) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a request's path may hold anything, and a line per verdict helps nobody."""
