"""The list of verb groups; importing a group is cheap, its heavy imports are inside its verbs."""

import importlib

import typer

GROUPS = (
    "run",
    "predict",
    "models",
    "serve",
    "settings",
    "evaluate",
    "explain",
    "diff",
    "canary",
    "simulate",
    "retrain",
    "trigger",
    "schedule",
    "submit",
    "runs",
    "state",
    "monitor",
    "corrections",
    "data",
    "loop",
    "doctor",
)
"""Modules of `cli` with a function ``register(app)``."""


def register(app: typer.Typer) -> None:
    """Add every group's verbs to `app`."""
    for group in GROUPS:
        importlib.import_module(f"cli.{group}").register(app)
