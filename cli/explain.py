"""`hscode explain`: why a text gets its code."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption
from cli.predict import ModelOption, opened
from models.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verb of this file to `app`."""
    app.command()(explain)


def explain(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Descriptions of goods.")],
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the explanations as a page.")
    ] = None,
    digits: Annotated[int, typer.Option(help="Longest code wanted: 2, 4 or 6.")] = 6,
    model: ModelOption = "champion",
    config: ConfigOption = None,
    set_: SetOption = None,
    home: HomeOption = Path(".hscode"),
    as_json: JsonOption = False,
) -> None:
    """Say which words carried the answer, what the law says at each level, and which known descriptions are nearest."""
    if digits not in (2, 4, 6):
        raise UserError(f"--digits {digits} is not 2, 4 or 6")
    bundle = opened(model, config, set_ or [], home)
    explanations = bundle.explain([{"description": text, "digits": digits} for text in texts])
    about = {"name": bundle.name, "version": bundle.version, "edition": bundle.edition}
    if page is not None:
        from models.explain import to_html

        page.write_text(to_html(explanations, texts, about), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"explanations": explanations, "model": about}, ensure_ascii=False))
        return
    for text, each in zip(texts, explanations, strict=True):
        _print(text, each)
    typer.echo(f"(model {bundle.name} version {bundle.version}, {bundle.edition})")
    if page is not None:
        typer.echo(f"page: {page}")


def _print(text: str, explanation: dict[str, Any]) -> None:
    explained, answer = explanation["explained"], explanation["answer"]
    typer.echo(f"{text}: {answer['status']}, {explained['code']} at {explained['confidence']:.0%}")
    for level in explanation["legal"].values():
        typer.echo(f"    {level['code']:<6}  {level['text'][:100]}".rstrip())
    carried = sorted(explanation["words"], key=lambda word: -abs(word["effect"]))
    typer.echo("  words: " + ", ".join(f"{word['word']} {word['effect']:+.2f}" for word in carried[:10]))
    for known in explanation["nearest"]:
        typer.echo(f"  known: {known['description'][:80]} = {known['code']} (similarity {known['similarity']:.2f})")
