"""Refusing to start open: an address that other machines reach, and nobody asked for a key."""

from ipaddress import ip_address

from app.settings import Settings


class OpenToEverybody(Exception):
    """The service would answer whoever reaches it, and nobody said that it should."""


def refuse_if_open(config: Settings) -> None:
    """Do nothing where keys are asked for, only this machine can connect, or `open` says that everybody may.

    Raises:
        OpenToEverybody: none of these holds.
    """
    if not (config.auth or config.open or _loopback(config.host)):
        raise OpenToEverybody(
            f"other machines can reach {config.host or 'every address'}, and no API keys are asked for: set "
            "SAFEMARGIN_AUTH=1 and make keys with `safemargin keys create`, or SAFEMARGIN_OPEN=1 if everybody who can "
            "connect may use, train and delete"
        )


def _loopback(host: str) -> bool:
    """Whether only this machine reaches a host; a name other than localhost may mean any address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
