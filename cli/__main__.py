"""`python -m cli` is `safemargin`."""

from cli.main import run

if __name__ == "__main__":
    run()
