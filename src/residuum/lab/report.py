"""The report of an experiment: one self-contained page of what was claimed, what was measured, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residuum import html
from residuum.evaluation.report import duration
from residuum.html import Html, Section
from residuum.lab.findings import Rows, Table
from residuum.lab.scales import NO_DATA

if TYPE_CHECKING:
    from residuum.lab.reproduce import Reproduced


def write(path: Path, done: Reproduced, drawn: Mapping[str, bytes]) -> None:
    """Writes the page; `drawn` is drawing -> PNG."""
    html.write(path, compose(done, drawn))


def compose(done: Reproduced, drawn: Mapping[str, bytes]) -> str:
    """Returns the page as a document."""
    smoke = "A smoke run shows that the experiment works. It is too small to say anything about the claim."
    headlines = [
        (each.what, each.measured, "; ".join(filter(None, (each.spread, each.paper and f"paper: {each.paper}"))))
        for each in done.finding.headlines
    ]
    tiles = html.tiles([("verdict", done.finding.verdict, "by the rule below"), *headlines])
    return html.page(
        f"{done.experiment}, {done.scale}",
        list(_sections(done, drawn)),
        lead=done.claim.claim,
        top=html.join([tiles, *([html.note(smoke)] if done.scale == "smoke" else [])]),
        foot="Written by residuum. This file needs no network and no other file.",
    )


def _sections(done: Reproduced, drawn: Mapping[str, bytes]) -> Iterator[Section]:
    charts = (html.chart(drawn[each.name], each.alt, each.alt) for each in done.finding.drawings)
    yield Section("What was seen", html.join([*charts, *(html.paragraph(said) for said in done.finding.remarks)]))
    yield Section("What was measured", _measures(done))
    yield Section("The verdict", _verdict(done))
    if done.finding.tables:
        yield Section("In full", html.join(_table(table) for table in done.finding.tables))
    yield Section("How it was measured", _how(done))


def _measures(done: Reproduced) -> Html:
    rows = [[measure.what, measure.in_words(), measure.paper or "-"] for measure in done.finding.measures]
    caption = "Mean and standard deviation over seeds, beside the paper's figure where it prints one."
    return html.table(("What", "Measured here", "Paper"), rows, caption=caption)


def _verdict(done: Reproduced) -> Html:
    rows = [[check.what, "holds" if check.holds else "does not hold"] for check in done.finding.checks]
    return html.join(
        [
            html.paragraph("The claim: ", done.claim.claim),
            html.paragraph("Its source: ", done.claim.source),
            html.paragraph("The rule: ", done.claim.rule),
            html.table(("Part of the rule", "Here"), rows, caption=f"Together: {done.verdict}."),
        ]
    )


def _table(table: Table) -> Html:
    made = html.table(table.head, table.rows, caption=table.caption)
    return html.details(table.caption, made) if table.long else made


def _how(done: Reproduced) -> Html:
    facts: dict[str, object] = {
        "Scale": f"{done.scale}: {done.claim.scales[done.scale]}",
        "Time": took(done),
        **circumstances(done.rows),
    }
    return html.join([html.facts(facts), html.paragraph("The command:"), html.code(done.command)])


def took(done: Reproduced) -> str:
    """Returns how long an experiment took, in words."""
    trained = any("epochs" in row for row in done.rows)
    about = "about " if any(row.get("at_once", 1) > 1 for row in done.rows) else ""  # the last of them were fewer
    return about + duration(done.seconds) + (", trainings included" if trained else "")


def circumstances(rows: Rows) -> dict[str, str]:
    """Returns where and with what rows were measured: pictures, machines, versions, dates."""
    starts: list[Mapping[str, Any]] = [row for row in rows if row["kind"] == "start"]
    if not starts:
        return {}
    seeds = sorted({row["seed"] for row in rows if "seed" in row})

    def all_of(key: str, suffix: str = "") -> str:
        return ", ".join(dict.fromkeys(f"{row[key]}{suffix}" for row in starts))

    facts = {
        "Pictures": all_of("data"),
        "Seeds": ", ".join(map(str, seeds)),
        "Bundles": ", ".join(f"{net}: {name}" for net, name in starts[0].get("bundles", {}).items()),
        "Machine": ", ".join(dict.fromkeys(f"{row['machine']}, {row['cores']} cores" for row in starts)),
        "torch": all_of("torch"),
        "residuum": all_of("residuum"),
        "Date": all_of("date"),
    }
    return {name: value for name, value in facts.items() if value and value != NO_DATA}
