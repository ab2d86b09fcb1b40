"""The documentation's page and README's table, generated from the rows that are committed under docs/results/.

Rows of an experiment are in NAME.jsonl; what it found with other nets, such as bundles, is in NAME-ANYTHING.jsonl.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from residuum.errors import ResourceError, UsageError
from residuum.lab.experiments import every
from residuum.lab.findings import Rows
from residuum.lab.nets import read_rows
from residuum.lab.report import circumstances, took
from residuum.lab.reproduce import Reproduced, finish

RESULTS, PAGE, FIGURES = Path("docs") / "results", Path("docs") / "reproduction.md", Path("docs") / "figures"
_HEADER = 33  # the bytes of a PNG before its second chunk: signature, and IHDR
BEGIN, END = "<!-- reproduction: written by residuum reproduce tables -->", "<!-- end of reproduction -->"
STAMP = "rows"
"""The word in a figure's metadata under which the digest of the rows stands that it was drawn from."""


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
        for stem, done in found.items():
            for drawing in done.finding.drawings:
                file = figures / f"{stem}-{drawing.name}.png"
                file.write_bytes(stamped(drawing.draw(), rows_digest(done.rows)))
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
    """Returns what the committed rows of each experiment mean, by the name of their file without extension."""
    found = {}
    for name in (entry.name for entry in every()):
        for file in (root / RESULTS / f"{name}.jsonl", *sorted((root / RESULTS).glob(f"{name}-*.jsonl"))):
            rows = read_rows(file)
            if rows:
                found[file.stem] = _read(name, file.stem, rows)
    return found


def rows_digest(rows: Rows) -> str:
    """Returns letters that tell rows apart."""
    return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()[:16]


def stamped(png: bytes, stamp: str) -> bytes:
    """Returns a PNG whose metadata say `stamp` under the word STAMP, as `PIL.Image.Image.text` reads them."""
    chunk = b"tEXt" + STAMP.encode("latin-1") + b"\0" + stamp.encode("latin-1")
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:_HEADER] + whole + png[_HEADER:]


def _read(name: str, stem: str, rows: Rows) -> Reproduced:
    """Returns what the rows of a file mean; UsageError where some are missing."""
    starts = [row["scale"] for row in rows if row["kind"] == "start"]
    if not starts:
        raise _incomplete(name, stem, "no row says at which scale and with what they were measured")
    try:
        done = finish(name, starts[-1], rows, RESULTS)
    except (LookupError, StopIteration, ValueError) as error:
        why = f"{error.args[0]} is missing" if isinstance(error, KeyError) else "some are missing"
        raise _incomplete(name, stem, why) from error
    seeds: dict[str, set[int]] = {}
    for row in rows:
        if row.get("net") and "seed" in row:
            seeds.setdefault(row["net"], set()).add(row["seed"])
    foreign = {row["net"] for row in rows if row.get("bundle")}
    if missing := {net for check in done.finding.checks for net in check.nets} - {row.get("net") for row in rows}:
        raise _incomplete(name, stem, f"{min(missing)} is missing")
    most = max(map(len, seeds.values()), default=0)
    if short := sorted(net for net, own in seeds.items() if len(own) < most and net not in foreign):
        raise _incomplete(name, stem, f"{short[0]} has {len(seeds[short[0]])} of {most} seeds")
    return done


def _incomplete(name: str, stem: str, why: str) -> UsageError:
    return UsageError(
        f"{RESULTS / stem}.jsonl does not hold all rows of {name}: {why}.",
        expected="Expected the results.jsonl of an experiment that has ended.",
        hint=f"Let residuum reproduce {name} go on to its end, and copy its results.jsonl again.",
    )


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
        if entry.name not in found:
            lines += [f"Not measured yet: `residuum reproduce {entry.name} --scale small`", ""]
        for stem, done in found.items():
            if done.experiment == entry.name:
                lines += [] if stem == entry.name else [f"### {stem}", ""]
                lines += _measured(stem, done)
    return "\n".join(lines).rstrip("\n") + "\n"


def with_table(readme: str, found: Mapping[str, Reproduced]) -> str:
    """Returns README's text with the table between its two marks written anew."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    lines = ["| experiment | measured here | paper | verdict |", "|---|---|---|---|"]
    for stem, done in found.items():
        headlines = done.finding.headlines
        measured = "<br>".join(
            f"{headline.what}: {headline.measured}" + (f" ({headline.spread})" if headline.spread else "")
            for headline in headlines
        )
        papers = "<br>".join(headline.paper or "-" for headline in headlines)
        lines.append(f"| `{stem}`, {done.scale} | {measured} | {papers} | {done.verdict} |")
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


def _measured(stem: str, done: Reproduced) -> Iterator[str]:
    yield from (f"**Verdict: {done.verdict}.**", "")
    yield from (f"* {'holds' if check.holds else '**does not hold**'}: {check.what}" for check in done.finding.checks)
    yield ""
    for drawing in done.finding.drawings:
        yield from (f"![{drawing.alt}](figures/{stem}-{drawing.name}.png)", "")
    yield from ("| what | measured here | paper |", "|---|---|---|")
    yield from (f"| {m.what} | {m.in_words()} | {m.paper or '-'} |" for m in done.finding.measures)
    yield ""
    yield from (line for remark in done.finding.remarks for line in (remark, ""))
    yield f"How: `{done.command}`. {done.claim.scales[done.scale]}"
    said = "; ".join(f"{name.lower()} {value}" for name, value in circumstances(done.rows).items())
    yield f"Took {took(done)}; {said}."
    yield ""
