"""Somebody who does what a page says, block by block, and believes nothing."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.examples import PATIENCE, environment
from tests.docs.blocks import Block, PageWrong, examples
from tests.docs.likeness import Names, differences, filled_in

ROOT = Path(__file__).parents[2]
_SERVES = re.compile(r"^(?P<settings>(?:\w+=\S+ )*)(?:safemargin|make) serve$")
_SHOWN = 1_000
_READY = re.compile(r"ready at http://(\S+)")


class Reader:
    """Sits in a folder with the project's files, where a shell finds `safemargin`; stops all that it started.

    A block that starts a service gets one on a free port, and what follows is asked there instead of at the port that
    the page says.

    Args:
        folder: an empty one to work in.
        home: the `SAFEMARGIN_HOME`.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        self._serving: dict[str, tuple[subprocess.Popen[str], str]] = {}
        commands = folder / ".bin"
        commands.mkdir()
        command = commands / "safemargin"
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m cli "$@"\n')
        command.chmod(0o755)
        for shared in ("examples", "workers"):
            (folder / shared).symlink_to(ROOT / shared)
        path = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = environment(home, PATH=path, PYTHONPATH=str(ROOT), COLUMNS="120", NO_PROXY="127.0.0.1")

    def read(self, markdown: str) -> None:
        """Do all that a page says to do.

        Raises:
            PageWrong: something else came of it than the page says.
        """
        names: Names = {}
        for example in examples(markdown):
            command = example.command
            if served := _SERVES.match(re.sub(r"\\\n\s*", "", command.text.strip())):
                self._serve(served["settings"])
                continue
            got = self._run(command, names)
            if example.answer is None:
                continue
            wrong = list(differences(example.answer.language, example.answer.text, got, names))
            if wrong:
                raise PageWrong(f"line {example.answer.line}: {'; '.join(wrong)}; what came is {got[:_SHOWN]}")

    def close(self) -> None:
        """Stop the services."""
        for process, _ in self._serving.values():
            process.send_signal(signal.SIGINT)
        for process, _ in self._serving.values():
            process.communicate(timeout=PATIENCE)

    def _serve(self, settings: str) -> None:
        given = dict(assignment.split("=", 1) for assignment in settings.split())
        port = given.pop("PORT", "8000")
        if port in self._serving:
            return
        log = self._folder / f"{port}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                ["safemargin", "serve"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=self._environment | given,
                cwd=self._folder,
            )
        assert process.stdout is not None
        ready = next((found for line in process.stdout if (found := _READY.search(line))), None)
        if ready is None:
            process.communicate()
            raise PageWrong(f"the service does not start: {log.read_text()[-2000:]}")
        self._serving[port] = (process, ready[1])

    def _run(self, command: Block, names: Names) -> str:
        text = self._where_served(filled_in(command.text, names))
        how = ["bash", "-euo", "pipefail", "-c"] if command.language == "console" else [sys.executable, "-P", "-c"]
        ended = subprocess.run(
            [*how, text],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if ended.returncode:
            raise PageWrong(f"line {command.line}: exit status {ended.returncode}: {ended.stderr[-2000:]}")
        return self._as_on_the_page(ended.stdout)

    def _where_served(self, text: str) -> str:
        for port, (_, address) in self._serving.items():
            text = text.replace(f"127.0.0.1:{port}", address)
        return text

    def _as_on_the_page(self, text: str) -> str:
        for port, (_, address) in self._serving.items():
            text = text.replace(address, f"127.0.0.1:{port}")
        return text
