"""`safemargin webhooks`: what receivers of webhooks need to know."""

import typer

from app.artifacts import Artifacts, StoreUnreachable
from app.settings import settings
from app.webhooks.signing import installation_secret

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command()
def secret() -> None:
    """Print the secrets that webhooks are signed with, one a line."""
    try:
        found = settings().webhook_secret or installation_secret(Artifacts(settings().artifacts_url))
    except StoreUnreachable as error:
        typer.echo(f"safemargin: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo("\n".join(found.split()))
