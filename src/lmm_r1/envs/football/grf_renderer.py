"""gfootball's own pictures: a process that draws them, the pipe to it, and the import of gfootball, which both ends need.

An engine plays without drawing and sends the engine's state bytes (some 100 kB) down the pipe; the process loads them,
draws, and sends the pixels back. Drawing while playing would cost a drawn step for every tick, 10 to 200 times the time of
a tick. The process runs `python -m lmm_r1.envs.football.grf_renderer` and is started with the first picture.

The pipe carries lengths, JSON and raw bytes. gfootball itself packs a pickle into its state bytes and unpickles it when it
loads them; we talk to its C++ engine one level below and pack nothing, so neither end unpickles anything. The C++ engine
trusts its state bytes, so they must come from an engine of the same build, never from a file or a stranger.
Leaves out: play (grf.py). Where pictures are drawn is in `place`.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import json
import os
import secrets
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import gymnasium  # noqa: F401  what gfootball imports under its old name
import numpy as np

from lmm_r1.drawing import Picture
from lmm_r1.errors import EngineError, Fault

PLACES = ("auto", "display", "xvfb", "egl")
#: Seconds until a started process must be ready, and until a picture must be there: a renderer that hangs is ended.
START_LIMIT, FRAME_LIMIT = 180.0, 60.0
#: Largest head and body of a message.
MOST_HEAD, MOST_BODY = 1 << 16, 1 << 28
#: What gfootball 2.10.2 needs beside itself; its own list of dependencies is not complete.
NEEDED = ("gfootball", "gfootball_engine", "absl", "cv2", "six")
INSTALL = 'docs/football.md says how to build it; pip install "lmm-r1[football]" brings what it needs'
PACKAGES = "apt-get install xvfb libgl1 libgl1-mesa-dri libegl1 and what else docs/football.md lists"

_LENGTHS = struct.Struct(">II")


class Libraries(NamedTuple):
    """The modules of gfootball: the C++ engine, `gfootball.env.config`, `gfootball.env.football_env`."""

    engine: ModuleType
    config: ModuleType
    env: ModuleType


@lru_cache(maxsize=1)
def libraries() -> Libraries:
    """Imports gfootball, with Gymnasium in the place of the retired package gym. EngineError where that cannot be done."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        message = f"Google Research Football cannot be used without {', '.join(missing)}"
        raise EngineError(Fault(message, remedy=INSTALL))
    stand_ins = {
        "gym" + name.removeprefix("gymnasium"): module
        for name, module in sys.modules.items()
        if name == "gymnasium" or name.startswith("gymnasium.")
    }
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        names = ("gfootball_engine", "gfootball.env.config", "gfootball.env.football_env")
        return Libraries(*(importlib.import_module(name) for name in names))
    except ImportError as error:  # a shared library that the engine is linked against
        raise EngineError(Fault(f"Google Research Football cannot be loaded: {error}", remedy=PACKAGES)) from None
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def config_of(level: str, seed: int) -> Any:
    """gfootball's configuration of an episode: one controlled left player, all actions, everything drawn from the seed."""
    values = {
        "level": level,
        "players": ["agent:left_players=1"],
        "action_set": "full",
        "game_engine_random_seed": seed,
        "episode_number": 1,  # made even by the configuration itself: the left team kicks off in 11 against 11
    }
    return libraries().config.Config(values)


def packed(head: dict[str, Any], body: bytes = b"") -> bytes:
    """A message: the lengths of both parts, the head as JSON, the body as it is."""
    text = json.dumps(head).encode()
    return _LENGTHS.pack(len(text), len(body)) + text + body


def unpacked(read: Callable[[int], bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None at the end of the stream. `read(n)` gives n bytes, fewer only at the end.

    EngineError for a stream that breaks off or is no message.
    """
    prefix = read(_LENGTHS.size)
    if not prefix:
        return None
    if len(prefix) < _LENGTHS.size:
        raise EngineError("the renderer's pipe broke off within a message")
    head_length, body_length = _LENGTHS.unpack(prefix)
    if head_length > MOST_HEAD or body_length > MOST_BODY:
        raise EngineError(f"the renderer's pipe announces {head_length} + {body_length} bytes: that is no message")
    text, body = read(head_length), read(body_length)
    if len(text) < head_length or len(body) < body_length:
        raise EngineError("the renderer's pipe broke off within a message")
    try:
        head = json.loads(text)
    except ValueError:
        raise EngineError("the renderer's pipe carries a head that is no JSON") from None
    if not isinstance(head, dict):
        raise EngineError("the renderer's pipe carries a head that is no object")
    return head, body


def brightened(frame: Picture) -> Picture:
    """A frame of linear light as a screen shows it (the sRGB curve). Without a screen the engine leaves that step out."""
    light = np.arange(256) / 255.0
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255.0 * curve).astype(np.uint8)[frame]


def check_size(width: int, height: int) -> None:
    """ValueError for a size that cannot be drawn; the engine reads rows of a multiple of four bytes."""
    if not (64 <= width <= 1920 and 64 <= height <= 1920 and width % 4 == 0):
        raise ValueError(f"cannot draw {width} x {height} pixels: both must be 64 to 1920, the width a multiple of 4")


def place(display: str) -> str:
    """Where pictures are drawn: "display" (that of DISPLAY), "xvfb" (a virtual one of our own) or "egl" (without any).

    "auto" is the first of them that there is. EngineError for "xvfb" without Xvfb and "display" without DISPLAY.
    """
    if display not in PLACES:
        raise ValueError(f'no place "{display}" (there are: {", ".join(PLACES)})')
    has_display, has_xvfb = bool(os.environ.get("DISPLAY")), shutil.which("Xvfb") is not None
    if display == "display" and not has_display:
        raise EngineError(Fault("DISPLAY names no display to draw pictures on", remedy='use "auto"'))
    if display == "xvfb" and not has_xvfb:
        raise EngineError(Fault("Xvfb, which gfootball's pictures are drawn on, is not on the PATH", remedy=PACKAGES))
    if display != "auto":
        return display
    if has_display or has_xvfb:
        return "display" if has_display else "xvfb"
    warnings.warn("no Xvfb: pictures are drawn off screen and brightened", RuntimeWarning, stacklevel=2)
    return "egl"


class Screen:
    """Draws the moment that a state of the engine holds. One in a process: the engine can draw with no more."""

    def __init__(self, width: int, height: int) -> None:
        self._shape = (height, width, 3)
        self._level = ""
        engine = libraries().engine
        self._game = engine.GameEnv()
        settings = self._game.game_config
        settings.render, settings.physics_steps_per_frame = True, 10
        settings.render_resolution_x, settings.render_resolution_y = width, height
        self._game.start_game()
        self._game.state = engine.GameState.game_running

    def draw(self, level: str, state: bytes) -> Picture:
        """uint8[height, width, 3], a function of the state alone: the first drawing still has the camera before it."""
        if level != self._level:
            self._enter(level)
        self._game.set_state(state)
        self._game.render(False)
        self._game.render(True)
        return np.frombuffer(self._game.get_frame(), np.uint8).reshape(self._shape)[::-1]  # from the lowest row up

    def _enter(self, level: str) -> None:
        """Gives the engine the teams of a level. One drawn step: without any it dies when it writes a name."""
        game = self._game
        game.reset(config_of(level, 0).ScenarioConfig(), False)
        game.step()
        game.game_config.render = False
        for _ in range(200):
            if game.get_info().is_in_play:
                break
            game.step()
        game.game_config.render = True
        self._level = level


def serve(screen: Screen, linear: bool, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers states with pictures until the requests end."""
    replies.write(packed({"ready": True}))
    replies.flush()
    while (message := unpacked(requests.read)) is not None:
        head, state = message
        frame = screen.draw(str(head["level"]), state)
        pixels = brightened(frame) if linear else frame
        replies.write(packed({"shape": list(pixels.shape)}, pixels.tobytes()))
        replies.flush()


def main(arguments: list[str]) -> int:
    """The process: WIDTH HEIGHT PLACE; messages on standard input and output."""
    width, height, drawn_at = int(arguments[0]), int(arguments[1]), arguments[2]
    # The C++ engine prints to standard output: it gets standard error instead.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    try:
        serve(Screen(width, height), drawn_at == "egl", requests, replies)
    except BrokenPipeError:  # the owner has gone
        return 0
    except EngineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _wait(descriptor: int, event: int, until: float) -> None:
    """Until the pipe can be read or written. TimeoutError after `until`."""
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, until - time.monotonic()) * 1000.0):
        raise TimeoutError


class Renderer:
    """The owner's end of a rendering process, and of the Xvfb it draws on. Both are ended by `close`.

    Should the owner be killed, the process meets the end of its input and ends, and Xvfb ends with its last client.
    """

    def __init__(self, width: int, height: int, display: str, start: float = START_LIMIT) -> None:
        check_size(width, height)
        self._size, self._place = (width, height), place(display)
        self._xvfb: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        try:
            with tempfile.TemporaryDirectory(prefix="lmm-r1-") as folder:  # not needed once it is ready
                self._open(Path(folder), time.monotonic() + start)
                self._answer(start)
        except BaseException:
            self.close()
            raise

    def frame(self, level: str, state: bytes, seconds: float = FRAME_LIMIT) -> Picture:
        """The picture of a state. EngineError when the process dies, hangs, or answers something else."""
        width, height = self._size
        head, pixels = self._answer(seconds, packed({"level": level}, state))
        if head.get("shape") != [height, width, 3] or len(pixels) != height * width * 3:
            raise EngineError("the renderer sent a picture of another size")
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)

    def close(self) -> None:
        """Ends both processes; there is nothing to save."""
        if self._process is not None:
            self._process.kill()  # its window library takes a request to end for an event
            self._process.wait()
        if self._xvfb is not None:
            self._xvfb.terminate()  # asked, it removes its lock and socket
            try:
                self._xvfb.wait(5)
            except subprocess.TimeoutExpired:
                self._xvfb.kill()
                self._xvfb.wait()
        self.let_go()

    def let_go(self) -> None:
        """Closes this end of the pipes and ends nobody: also what a forked child does, whose parent owns the processes."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.returncode = self._process.returncode or 0
        self._said.close()
        self._process = self._xvfb = None

    def _open(self, folder: Path, until: float) -> None:
        where = dict(os.environ)
        where["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        if self._place == "egl":
            where.pop("DISPLAY", None)
        if self._place == "xvfb":
            where.update(self._open_xvfb(folder, until))
        width, height = self._size
        # -P: what lies in the working folder is not imported. A session of its own: Ctrl-C is its owner's to handle.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lmm_r1.envs.football.grf_renderer", str(width), str(height), self._place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=where,
            bufsize=0,
            start_new_session=True,
        )

    def _open_xvfb(self, folder: Path, until: float) -> dict[str, str]:
        """Starts a display that only holders of a cookie may use; what a client's environment must say."""
        kind, cookie = b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16)
        authority = folder / "authority"
        # X's format: family (65535: any), address, display (any), name, data, each after its length.
        entry = struct.pack(">HHHH", 65535, 0, 0, len(kind)) + kind + struct.pack(">H", len(cookie)) + cookie
        authority.write_bytes(entry)
        number_in, number_out = os.pipe()
        screen = f"{max(640, self._size[0])}x{max(480, self._size[1])}x24"
        command = ["Xvfb", "-displayfd", str(number_out), "-screen", "0", screen, "-nolisten", "tcp", "-terminate"]
        try:
            try:
                self._xvfb = subprocess.Popen(
                    [*command, "-auth", str(authority)],
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=self._said,
                    pass_fds=(number_out,),
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineError(Fault(f"Xvfb cannot be started: {error}", remedy=PACKAGES)) from None
            finally:
                os.close(number_out)
            number = b""
            while not number.endswith(b"\n"):
                _wait(number_in, select.POLLIN, until)
                piece = os.read(number_in, 16)
                if not piece:
                    raise EngineError(Fault(f"Xvfb ended at once{self._last_words()}", remedy=PACKAGES))
                number += piece
        except TimeoutError:
            raise EngineError(Fault("Xvfb named no display in time", remedy=PACKAGES)) from None
        finally:
            os.close(number_in)
        return {"DISPLAY": f":{int(number)}", "XAUTHORITY": str(authority)}

    def _answer(self, seconds: float, request: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Sends and receives within a time. EngineError names what the process said last."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EngineError("the renderer is closed")
        until = time.monotonic() + seconds
        to, back = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(to, False)

        def read(count: int) -> bytes:
            found = bytearray()
            while len(found) < count:
                _wait(back, select.POLLIN, until)
                piece = os.read(back, min(count - len(found), 1 << 20))
                if not piece:
                    break
                found += piece
            return bytes(found)

        try:
            rest = memoryview(request)
            while rest:
                _wait(to, select.POLLOUT, until)
                rest = rest[os.write(to, rest) :]
            message = unpacked(read)
        except TimeoutError:
            raise EngineError(f"the renderer of gfootball did not answer within {seconds:.0f} s") from None
        except BrokenPipeError:
            message = None
        if message is None:
            try:
                status = str(process.wait(5))
            except subprocess.TimeoutExpired:
                status = "unknown"
            raise EngineError(
                Fault(f"the renderer of gfootball ended (status {status}){self._last_words()}", remedy=PACKAGES)
            )
        return message

    def _last_words(self) -> str:
        """The last line that a process printed, to be put behind a message."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""


class SharedRenderer:
    """One renderer for all engines of this process, started when the first asks for a picture.

    It ends when the last engine that used it lets go, or with the process; another size or place starts another one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: set[int] = set()
        self._renderer: Renderer | None = None
        self._kind: tuple[int, int, str] | None = None

    def frame(self, user: object, level: str, state: bytes, kind: tuple[int, int, str]) -> Picture:
        """The picture of a state; kind: width, height, place. EngineError as Renderer's; the next call starts anew."""
        with self._lock:
            self._users.add(id(user))
            if self._renderer is not None and self._kind != kind:
                self._end()
            if self._renderer is None:
                self._renderer, self._kind = Renderer(*kind), kind
            try:
                return self._renderer.frame(level, state)
            except BaseException:  # interrupted or broken: what is still in the pipe belongs to no later request
                self._end()
                raise

    def hold(self, user: object) -> None:
        """Let the renderer, once it runs, live until this user lets go or the process ends: it takes seconds to start."""
        with self._lock:
            self._users.add(id(user))

    def release(self, user: object) -> None:
        """Nothing for who did not use it."""
        with self._lock:
            self._users.discard(id(user))
            if not self._users:
                self._end()

    def end(self) -> None:
        """Whoever uses it: the process ends."""
        with self._lock:
            self._users.clear()
            self._end()

    def after_fork(self) -> None:
        """In a forked child: the renderer is the parent's."""
        self._lock, renderer = threading.Lock(), self._renderer
        self._users, self._renderer = set(), None
        if renderer is not None:
            renderer.let_go()

    def _end(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None


SHARED = SharedRenderer()
atexit.register(SHARED.end)
os.register_at_fork(after_in_child=SHARED.after_fork)

if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # the engine's own end may crash, and has nothing to save
