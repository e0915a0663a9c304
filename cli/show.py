"""`pyrobayes show`."""

import json

import click

from pyrobayes_cli import options


@click.command("show", short_help="Show a model as a specification.")
@options.model
@click.option("--figure", type=click.Path(), help="write a drawing of the graphical model to FIGURE.pdf and FIGURE.png")
@options.as_json
def command(model, figure, as_json):
    """Show the formula of MODEL, the source of its model and guide as they run, and every site's parents.

    The parents are read from the running model, not from the formula.

    \b
    Example:
      pyrobayes show gbz --figure gbz
    """
    from pyrobayes import build
    from pyrobayes.results import figures

    factorization = build(model, networks="small")
    parents = factorization.parents()
    if figure:
        stem = figure.removesuffix(".pdf").removesuffix(".png")
        written = figures.save(figures.graphical_model(factorization), stem)
    if as_json:
        shown = {"model": factorization.name, "formula": factorization.formula(), "parents": parents}
        click.echo(json.dumps(shown | {"source": factorization.source()}, indent=2))
        return
    click.echo(f"{factorization.name.upper()}: {factorization.formula()}\n")
    for part, source in factorization.source().items():
        click.echo(f"# {part}\n{source}")
    click.echo("# parents, read from the running model")
    for site, above in parents.items():
        click.echo(f"{site}: {', '.join(above) or '-'}")
    if figure:
        click.echo(f"\nDrawn in {written[0]} and {written[1]}.")
