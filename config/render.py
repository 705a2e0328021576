"""The settings tree as documented YAML: `hscode settings`, and config/default.yaml (a test keeps them equal)."""

import textwrap
from typing import Any

import yaml
from pydantic import BaseModel

from config.settings import Settings


def as_yaml(settings: Settings) -> str:
    """The resolved tree as YAML, each value under its reason."""
    return "".join(_lines(settings, 0))


def _lines(section: BaseModel, depth: int) -> list[str]:
    pad = "  " * depth
    out: list[str] = []
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            about = (type(value).__doc__ or "").strip().splitlines()[0]
            out += [f"\n{pad}# {about}\n", f"{pad}{name}:\n", *_lines(value, depth + 1)]
            continue
        about = " ".join((field.description or "").split())
        out += [f"{pad}# {line}\n" for line in textwrap.wrap(about, 116 - len(pad))]
        out.append(f"{pad}{name}: {_inline(values[name])}\n")
    return out


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()
