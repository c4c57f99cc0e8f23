"""Writes docs/settings.md from the code: `python tools/document_settings.py`. A test compares the two."""

from __future__ import annotations

from pathlib import Path

from pydantic.fields import FieldInfo

from tingdao.settings import ENV_PREFIX, Section, Settings

TARGET = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Values come from, strongest first: command-line flags, environment variables, the file `tingdao.toml` in the working
folder (or where `TINGDAO_CONFIG` points), and the defaults below. Unknown names are errors, not ignored.

```toml
# tingdao.toml
state_dir = "/var/lib/tingdao"

[server]
port = 8080

[audio]
max_duration_s = 7200
```

This page is written from the code by `tools/document_settings.py`.
"""


def render() -> str:
    """The whole page."""
    top, sections = [], []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            title = (kind.__doc__ or "").split("\n")[0]
            rows = [_row(option, inner, f"{name}_{option}") for option, inner in kind.model_fields.items()]
            sections.append(f"\n## {title}\n\n{_table(rows)}")
        else:
            top.append(_row(name, field, name))
    return HEAD + "\n## Top of the file\n\n" + _table(top) + "".join(sections)


def _table(rows: list[str]) -> str:
    return "| option | variable | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _row(option: str, field: FieldInfo, path: str) -> str:
    # A default that depends on the machine is described in the option's own words.
    made = field.default_factory is not None and not isinstance(field.get_default(call_default_factory=True), dict)
    value = None if made else field.get_default(call_default_factory=True)
    shown = "see there" if made else "none" if value is None else f"`{value}`"
    return f"| `{option}` | `{(ENV_PREFIX + path).upper()}` | {shown} | {field.description} |\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
