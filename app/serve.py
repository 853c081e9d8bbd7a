"""The API as a process: `python -m app.serve` listens where the settings say."""

import logging
import sys

import uvicorn

from app import log
from app.auth.exposure import OpenToEverybody, refuse_if_open
from app.settings import settings

EXIT_CONFIGURATION = 78
"""It cannot start however often it is restarted."""

_GRACE_SECONDS = 5


def main() -> None:
    """Serve until told to stop."""
    log.set_up()
    config = settings()
    try:
        refuse_if_open(config)
    except OpenToEverybody as error:
        logging.getLogger("safemargin.api").error("%s", error)
        sys.exit(EXIT_CONFIGURATION)
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=config.host,
        port=config.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


if __name__ == "__main__":
    main()
