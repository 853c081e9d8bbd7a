"""Whether the API or the worker in this container works; ends with a status other than 0 where it does not.

Nothing but the standard library, so that asking every few seconds costs little.
"""

import os
import re
import sys
import time
from urllib.request import ProxyHandler, build_opener

_HEARTBEAT = re.compile(rb"^safemargin_heartbeat_timestamp_seconds (\S+)$", re.MULTILINE)
_FRESH_SECONDS = 30.0


def main(part: str) -> None:
    """Ask what `part` says of itself."""
    if part == "api":
        _get(os.environ.get("PORT", "8000"), "/livez")
        return
    found = _HEARTBEAT.search(_get(os.environ["SAFEMARGIN_METRICS_PORT"], "/metrics"))
    if found is None or time.time() - float(found[1]) > _FRESH_SECONDS:
        sys.exit("the queue has not heard of this worker of late")


def _get(port: str, path: str) -> bytes:
    with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}{path}", timeout=4) as answer:
        body: bytes = answer.read()
    return body


if __name__ == "__main__":
    main(sys.argv[1])
