"""The documentation's page and README's table, generated from the rows that are committed under docs/results/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from residuum.errors import ResourceError, UsageError
from residuum.lab.experiments import every
from residuum.lab.findings import Measure
from residuum.lab.nets import read_rows
from residuum.lab.report import circumstances, took
from residuum.lab.reproduce import Reproduced, finish

RESULTS, PAGE, FIGURES = Path("docs") / "results", Path("docs") / "reproduction.md", Path("docs") / "figures"
BEGIN, END = "<!-- reproduction: written by residuum reproduce tables -->", "<!-- end of reproduction -->"
_MEASURES_IN_README = 2


def write(root: Path) -> list[Path]:
    """Writes docs/reproduction.md, its figures, and README's table; returns the files.

    Raises:
        UsageError: `root` is not the folder of the project.
        ResourceError: a file cannot be written.
    """
    readme = root / "README.md"
    if not readme.is_file() or BEGIN not in readme.read_text(encoding="utf-8"):
        raise UsageError(
            f"{readme} has no table of experiments.",
            expected=f"Expected the project's folder, whose README.md has the mark {BEGIN}",
            hint="Give it with --out, or change into it.",
        )
    found = measured(root)
    written = {root / PAGE: page(found), readme: with_table(readme.read_text(encoding="utf-8"), found)}
    try:
        figures = root / FIGURES
        figures.mkdir(parents=True, exist_ok=True)
        drawn = []
        for done in found.values():
            for drawing in done.finding.drawings:
                file = figures / f"{done.experiment}-{drawing.name}.png"
                file.write_bytes(drawing.draw())
                drawn.append(file)
        for path, text in written.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"Cannot write {error.filename}: {error.strerror}.",
            expected="Expected a folder that can be written.",
            hint="Free some space, or change its permissions.",
        ) from error
    return [*written, *drawn]


def measured(root: Path) -> dict[str, Reproduced]:
    """Returns what the committed rows of each experiment mean, by name."""
    found = {}
    for name in (entry.name for entry in every()):
        rows = read_rows(root / RESULTS / f"{name}.jsonl")
        if rows:
            scale = next(row["scale"] for row in rows if row["kind"] == "start")
            found[name] = finish(name, scale, rows, RESULTS)
    return found


def page(found: Mapping[str, Reproduced]) -> str:
    """Returns docs/reproduction.md."""
    lines = [
        "# The paper's claims, measured",
        "",
        "Written by `residuum reproduce tables` from the rows under `docs/results/`, which `residuum reproduce` "
        "wrote. Every",
        "figure is the mean over seeds, ± the standard deviation where there are several; the verdict follows the "
        "rule that",
        "is stated, whatever we hoped for.",
        "",
    ]
    for entry in every():
        lines += [f"## {entry.name}", "", f"**Claim.** {entry.card.claim} ({entry.card.source})", ""]
        lines += [f"**Rule.** {entry.card.rule}", ""]
        if entry.name in found:
            lines += _measured(found[entry.name])
        else:
            lines += [f"Not measured yet: `residuum reproduce {entry.name} --scale small`", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def with_table(readme: str, found: Mapping[str, Reproduced]) -> str:
    """Returns README's text with the table between its two marks written anew."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    lines = ["| experiment | measured here | paper | verdict |", "|---|---|---|---|"]
    for done in found.values():
        shown = _for_readme(done)
        measures = "; ".join(f"{measure.what} {measure.in_words()}" for measure in shown)
        papers = "; ".join(measure.paper or "-" for measure in shown)
        lines.append(f"| `{done.experiment}`, {done.scale} | {measures} | {papers} | {done.verdict} |")
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


def _for_readme(done: Reproduced) -> list[Measure]:
    """Returns the figures that README shows: the first ones."""
    return list(done.finding.measures[:_MEASURES_IN_README])


def _measured(done: Reproduced) -> Iterator[str]:
    yield from (f"**Verdict: {done.verdict}.**", "")
    yield from (f"* {'holds' if check.holds else '**does not hold**'}: {check.what}" for check in done.finding.checks)
    yield ""
    for drawing in done.finding.drawings:
        yield from (f"![{drawing.alt}](figures/{done.experiment}-{drawing.name}.png)", "")
    yield from ("| what | measured here | paper |", "|---|---|---|")
    yield from (f"| {m.what} | {m.in_words()} | {m.paper or '-'} |" for m in done.finding.measures)
    yield ""
    yield from (line for remark in done.finding.remarks for line in (remark, ""))
    yield f"How: `residuum reproduce {done.experiment} --scale {done.scale}`. {done.claim.scales[done.scale]}"
    said = "; ".join(f"{name.lower()} {value}" for name, value in circumstances(done.rows).items())
    yield f"Took {took(done)}; {said}."
    yield ""
