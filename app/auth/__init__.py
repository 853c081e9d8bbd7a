"""Who may do what: API keys, their scopes and quotas, and the refusal to start open to everybody."""
