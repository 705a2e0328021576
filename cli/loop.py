"""`hscode loop`: the whole loop on this machine, from the first training to the promotion of the retrained model."""

import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import HomeOption, JsonOption, SetOption, resolved
from cli.run import DataOption, NomenclatureOption, with_data

if TYPE_CHECKING:
    from pipelines.loop.story import Event

SETTINGS = Path(__file__).resolve().parents[1] / "config" / "loop.yaml"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command()(loop)


def loop(
    data: DataOption = None,
    shifted: Annotated[
        list[str] | None, typer.Option("--shifted", metavar="PATH|URL", help="File with rows after the shift.")
    ] = None,
    nomenclature: NomenclatureOption = None,
    home: HomeOption = Path(".hscode"),
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="Settings as YAML.", show_default="config/loop.yaml")
    ] = SETTINGS,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train, serve and watch; then shift the stream, and see the model retrained, tried and promoted by itself.

    Some minutes, on the synthetic sample unless rows are given; all in a new folder of HOME. Needs prometheus and
    prometheus-alertmanager. Exit code 1 where no retrained model was promoted.
    """
    from models.errors import UserError
    from pipelines.loop import material
    from pipelines.loop.story import run_loop

    if bool(data) != bool(shifted):
        raise UserError("--data and --shifted go together", todo="name the rows before and after the shift")
    settings = resolved(config, with_data(set_ or [], None, nomenclature))
    began = datetime.now(UTC)
    folder = home / "loops" / began.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    rows = (
        material.of_files(folder / "rows", settings, data, shifted)
        if data and shifted
        else material.synthetic(folder / "rows", settings.loop)
    )
    signal.signal(signal.SIGTERM, _stop)
    summary = run_loop(settings, folder, rows, _Teller(began, as_json))
    if as_json:
        typer.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        _print(summary)
    if not summary["promoted"]:
        sys.exit(1)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


class _Teller:
    """Each event as a line with its minute, on standard error."""

    def __init__(self, began: datetime, quiet: bool) -> None:
        self.began, self.shown = began, sys.stderr.isatty() or not quiet

    def __call__(self, event: "Event") -> None:
        from pipelines.loop.page import TITLES

        if self.shown:
            seconds = int((event.at - self.began).total_seconds())
            told = f"{TITLES.get(event.event, event.event)}: {event.detail}".removesuffix(": ")
            typer.echo(f"{seconds // 60:2d}:{seconds % 60:02d}  {told[:200]}", err=True)


def _print(summary: dict[str, Any]) -> None:
    from pipelines.loop.page import ACCURACIES

    rows = "synthetic rows" if summary["synthetic"] else "rows"
    for name, title in ACCURACIES.items():
        found = summary["accuracies"][name]
        if found:
            typer.echo(
                f"{title}: {found['value']:.1%} right at six digits "
                f"({found['rows']:,} {rows}, {found['classes']} of {found['classes_known']} classes)"
            )
    ratio = summary["loss_recovered_ratio"]
    typer.echo(
        f"Retrainings: {summary['runs_started']}. Promoted: {'yes' if summary['promoted'] else 'no'}. "
        f"Loss recovered: {'-' if ratio is None else f'{ratio:.0%}'}."
    )
    typer.echo(f"Timeline: {summary['timeline']}")
