"""Webhooks of requests: refused at once where it is plain that they would never be delivered."""

from app.errors import Unprocessable
from app.schemas.problem import FieldProblem
from app.schemas.webhooks import Webhook
from app.settings import Settings
from app.webhooks.addresses import check_url


def admitted(webhook: Webhook | None, config: Settings) -> str | None:
    """The URL to keep with the job; None where the request has no webhook.

    Raises:
        Unprocessable: its address is not public, and the settings do not allow that.
    """
    if webhook is None:
        return None
    try:
        check_url(webhook.url, config.webhook_private)
    except ValueError as error:
        problem = FieldProblem(pointer="/webhook/url", code="address_not_public", detail=str(error))
        raise Unprocessable("the request is not valid", errors=[problem]) from None
    return webhook.url
