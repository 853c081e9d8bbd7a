"""`safemargin train`: learn from labelled pairs, without a service."""

import typer

from cli import rahf, rewards, ruleadapter

app = typer.Typer(no_args_is_help=True, help=__doc__)
app.command("reward")(rewards.train_reward)
app.command("rule-adapter")(ruleadapter.rule_adapter)
app.command("rahf-scit")(
    rahf.command("rahf-scit", "Teach a model a good and a bad instruction (SCIT), and align it with the difference.")
)
app.command("rahf-dual")(
    rahf.command("rahf-dual", "Teach two models a side each (Dual), and align the preferred one with the difference.")
)
