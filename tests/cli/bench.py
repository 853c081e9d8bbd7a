"""`safemargin annotate` against a service without a network."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from cli.main import app
from tests.app.client.service import Clock, Service

URL = "http://test"


class Bench:
    """A folder with a dataset, the service, and the command line between them."""

    def __init__(self, folder: Path, service: Service, clock: Clock) -> None:
        self.folder, self.service, self.clock = folder, service, clock
        self.output = folder / "margins.jsonl"

    def write(self, content: bytes, name: str = "data.jsonl") -> None:
        (self.folder / name).write_bytes(content)

    def annotate(self, *options: str, data: str = "data.jsonl", to: str = "margins.jsonl", status: int = 0) -> Result:
        target = to if to == "-" else str(self.folder / to)
        arguments = ["annotate", str(self.folder / data), "-o", target, "--url", URL, *options]
        ended = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert ended.exit_code == status, ended.output
        return ended

    def lines(self, name: str = "margins.jsonl") -> list[int]:
        return [json.loads(text)["line"] for text in (self.folder / name).read_bytes().split(b"\n")[:-1]]

    def left(self) -> set[str]:
        """Files other than the dataset."""
        return {path.name for path in self.folder.iterdir() if not path.name.startswith("data.")}

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "margins.jsonl.state").read_bytes())  # type: ignore[no-any-return]

    def interrupt_at(self, rows: int) -> None:
        """Ctrl-C as soon as the service has that many rows ready."""

        def look(job: dict[str, Any]) -> None:
            if job["ready"] > rows:
                self.service.on_look = lambda job: None
                raise KeyboardInterrupt

        self.service.on_look = look
