"""A page in a real browser (Chromium, headless, over its debugging pipe): what it asks for, says and shows."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
          "--hide-scrollbars", "--remote-debugging-pipe", "--window-size=1000,800")  # fmt: skip
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Seen:
    """requests: every URL that the page asked for.  errors: exceptions, and what the console calls an error or a
    warning.  value: of the script.  png: the whole page as it looks."""

    requests: list[str]
    errors: list[str]
    value: Any
    png: bytes


def browser() -> str | None:
    """The path of a browser, if this machine has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look(page: Path, script: str) -> Seen:
    """Opens `page`, waits until it is loaded, and evaluates `script` in it."""
    with _running() as talk:
        target = talk.ask("Target.createTarget", url="about:blank")["targetId"]
        session = talk.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log", "Page"):
            talk.ask(f"{domain}.enable", session)
        talk.ask("Page.navigate", session, url=page.as_uri())
        talk.until("Page.loadEventFired")
        made = talk.ask("Runtime.evaluate", session, expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made
        shot = talk.ask("Page.captureScreenshot", session, captureBeyondViewport=True)
        requests = [told["params"]["request"]["url"] for told in talk.of("Network.requestWillBeSent")]
        png = base64.b64decode(shot["data"])
        return Seen(requests, [*_errors(talk)], made["result"].get("value"), png)


class _Talk:
    """Messages to and from the browser: JSON, each ended by a zero byte."""

    def __init__(self, to: BinaryIO, come: BinaryIO) -> None:
        self._to, self._come, self._count = to, come, 0
        self._told: list[dict[str, Any]] = []
        self._until_s = time.monotonic() + _PATIENCE_S

    def ask(self, method: str, session: str | None = None, **params: Any) -> Any:
        """What the browser answers."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **({"sessionId": session} if session else {})}
        self._to.write(json.dumps(message).encode() + b"\0")
        while (come := self._next()).get("id") != self._count:
            pass
        assert "error" not in come, come
        return come["result"]

    def until(self, method: str) -> None:
        """Waits until the browser has told `method`."""
        while not any(self.of(method)):
            self._next()

    def of(self, method: str) -> Iterator[dict[str, Any]]:
        """All that it has told under `method`."""
        return (told for told in self._told if told.get("method") == method)

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._come.read(1)) != b"\0":
            assert byte, "the browser has gone"
            assert time.monotonic() < self._until_s, "the browser does not answer"
            text += byte
        self._told.append(json.loads(text))
        return self._told[-1]


def _errors(talk: _Talk) -> Iterator[str]:
    for told in talk.of("Runtime.exceptionThrown"):
        yield json.dumps(told["params"]["exceptionDetails"])
    for told in talk.of("Runtime.consoleAPICalled"):
        if told["params"]["type"] in ("error", "warning", "assert"):
            yield json.dumps(told["params"]["args"])
    for told in talk.of("Log.entryAdded"):
        if told["params"]["entry"]["level"] in ("error", "warning"):
            yield told["params"]["entry"]["text"]


@contextmanager
def _running() -> Iterator[_Talk]:
    program = browser()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # a browser takes its pipes as 3 and 4
        words = ["bash", "-c", command, "_", program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(words, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        with os.fdopen(ours_out, "wb", buffering=0) as to, os.fdopen(ours_in, "rb") as come:
            try:
                yield _Talk(to, come)  # type: ignore[arg-type]
            finally:
                process.terminate()
                process.wait(_PATIENCE_S)
