"""Write the API's OpenAPI document, or check that the one in the repository is up to date."""

import argparse
import json
import sys
from pathlib import Path

from app.main import create_app
from app.settings import Settings

DOCUMENT = Path(__file__).with_name("openapi.json")


def render() -> str:
    """The document as it should be on disk."""
    return json.dumps(create_app(Settings()).openapi(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the document on disk differs")
    if not parser.parse_args().check:
        DOCUMENT.write_text(render())
        return 0
    if DOCUMENT.exists() and DOCUMENT.read_text() == render():
        return 0
    print("openapi/openapi.json is out of date: run `make openapi`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
