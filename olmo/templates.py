"""HTML pages from the templates in ``olmo/assets``."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"


def render(name: str, **values: object) -> str:
    """The page of ``olmo/assets/NAME.html.j2``. Every value is escaped; one that is missing is an
    error."""
    import jinja2  # late: training and the benchmark do without

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    page = environment.get_template(f"{name}.html.j2").render(values)
    return page.lstrip()  # of the lines between macros
