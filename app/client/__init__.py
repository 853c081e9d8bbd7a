"""A client of the service that waits, tries again and picks up where it was cut off.

    with Client("http://127.0.0.1:8000") as client:
        print(client.annotate([{"prompt": "…", "chosen": "…", "rejected": "…"}]).annotations[0])

`AsyncClient` has the same methods, to be awaited. Both run the plans of `plans`, which do no input or output.
"""

from app.client.asynchronous import AsyncClient
from app.client.retries import ServiceError, Unreachable
from app.client.streams import Format, ResultLine
from app.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "Format", "ResultLine", "ServiceError", "Unreachable"]
