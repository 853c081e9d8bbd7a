"""Webhooks: telling a URL that a job is over, signed, to public addresses only, again and again until it listens."""
