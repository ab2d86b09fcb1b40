"""One experiment from its name to its report: `reproduce` measures what is missing, and writes all that people read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from residuum.download import is_offline
from residuum.errors import Interrupted, ResourceError, Stopped, UsageError, did_you_mean
from residuum.hardware import choose_device
from residuum.lab import foreign, report
from residuum.lab.asked import Asked
from residuum.lab.bench import Bench
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import SCALES, Claim, Finding, Row, Rows, Scale, Takes, verdict_in_words
from residuum.lab.scales import DATA, NO_DATA
from residuum.registry import Entry
from residuum.threads import cores
from residuum.training.records import Listener
from residuum.training.stop import Stop, listening

OUT = Path("runs") / "reproduce"
"""Where nets and results go, where --out names nothing else."""


@dataclass(frozen=True)
class Reproduced:
    """What an experiment found, where its files are, how long it took, trainings included, and the command that
    repeats it."""

    experiment: str
    scale: Scale
    claim: Claim
    finding: Finding
    folder: Path
    rows: Rows
    seconds: float
    command: str

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        return verdict_in_words(self.finding, self.scale)


def reproduce(
    experiment: str,
    *,
    scale: str = "smoke",
    data: str | None = None,
    seeds: int | None = None,
    bundles: Sequence[str | Path] = (),
    out: str | Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
    listener: Listener | None = None,
) -> Reproduced:
    """Measures an experiment at a scale, from where it was stopped, and writes results.jsonl, plots/ and report.html.

    `bundles` are trained nets in the place of those that would be trained; each is known by its network's name. `out`
    is the laboratory's folder: experiments in it share their trained nets, `jobs` of which are trained side by side:
    as many as there are cores where nothing is said, but one on a GPU and at `smoke`, where starting takes longer.

    Raises:
        UsageError: no such experiment or scale, an option that means nothing to it, a bundle that fits none of its
            nets, or a folder of other results.
        Stopped, Interrupted: a signal asked for it; what was measured is saved.
        ResiduumError: whatever training or a bundle raises.
    """
    entry = EXPERIMENTS[experiment]
    wanted = _scale(scale)
    given: dict[Takes, object] = {"data": data, "seeds": seeds, "bundle": bundles or None}
    _refuse_what_it_does_not_take(entry, given)
    asked = Asked(experiment, wanted, data, seeds, bundles, out, device, is_offline(), jobs)
    place = OUT if out is None else Path(out)
    stop = Stop()
    with _goes_on(asked), _writable(place), listening(stop):
        bench = Bench(
            experiment,
            wanted,
            place,
            data=data or (DATA[wanted] if "data" in entry.card.takes else NO_DATA),
            seeds=entry.card.seeds[wanted] if seeds is None else seeds,
            bundles=foreign.by_label(bundles),
            device=device,
            listener=listener,
            command=asked.anywhere(),
            at_once=_at_once(wanted, device) if jobs is None else jobs,
        )
        bench.refuse_misfits(entry.card.nets(wanted))
        entry.build(bench)
        return _written(entry, bench, asked.anywhere())


def finish(experiment: str, scale: Scale, rows: Rows, folder: Path, command: str = "") -> Reproduced:
    """Returns what rows mean, wherever they were measured; the command is what they say, where none is given."""
    claim = EXPERIMENTS[experiment].card
    seconds = sum(float(row.get("seconds", 0)) / row.get("at_once", 1) for row in rows)
    said = [str(row["command"]) for row in rows if row["kind"] == "start" and row.get("command")]
    command = command or (said[-1] if said else Asked(experiment, scale).anywhere())
    finding = foreign.told(claim.read(rows), rows)
    return Reproduced(experiment, scale, claim, finding, folder, rows, seconds, command)


def _written(entry: Entry[Claim, None], bench: Bench, command: str) -> Reproduced:
    done = finish(entry.name, bench.scale, bench.rows, bench.folder, command)
    drawn = {drawing.name: drawing.draw() for drawing in done.finding.drawings}
    plots = bench.folder / "plots"
    plots.mkdir(exist_ok=True)
    for name, png in drawn.items():
        (plots / f"{name}.png").write_bytes(png)
    report.write(bench.folder / "report.html", done, drawn)
    return done


def _at_once(scale: Scale, device: str) -> int:
    return 1 if scale == "smoke" or choose_device(device).type != "cpu" else cores()


def _scale(name: str) -> Scale:
    for scale in SCALES:
        if scale == name:
            return scale
    raise UsageError(
        f"There is no scale {name!r}.",
        expected=did_you_mean(name, SCALES) or f"Expected one of {', '.join(SCALES)}.",
        hint="See what they mean with: residuum reproduce --list --json",
    )


def _refuse_what_it_does_not_take(entry: Entry[Claim, None], given: Mapping[Takes, object]) -> None:
    for option, value in given.items():
        if value is not None and option not in entry.card.takes:
            takes = ", ".join(f"--{name}" for name in sorted(entry.card.takes)) or "none of --data, --seeds, --bundle"
            raise UsageError(
                f"--{option} means nothing to {entry.name}.",
                expected=f"It takes {takes}.",
                hint=f"Leave it out: residuum reproduce {entry.name}",
            )


@contextlib.contextmanager
def _goes_on(asked: Asked) -> Iterator[None]:
    """Says how an experiment that a signal has stopped goes on."""
    try:
        yield
    except Stopped as stopped:
        kind = Interrupted if isinstance(stopped, Interrupted) else Stopped
        by = stopped.what.split(";")[0].split(",")[0].rstrip(".")
        raise kind(f"{by}; what was measured is saved.", hint=f"Go on with: {asked.here()}") from stopped


@contextlib.contextmanager
def _writable(place: Path) -> Iterator[None]:
    """Turns a refusal to make the laboratory's folder into an error in three parts."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"Cannot write {place}: {error.strerror}.",
            expected="Expected a folder that can be made and written.",
            hint="Give another one with --out.",
        ) from error
    yield


def as_json(done: Reproduced) -> Row:
    """Returns what was found in JSON's types."""
    return {
        "experiment": done.experiment,
        "scale": done.scale,
        "claim": done.claim.claim,
        "source": done.claim.source,
        "rule": done.claim.rule,
        "verdict": done.finding.verdict,
        "judged": done.scale != "smoke",
        "headlines": [
            {"what": each.what, "measured": each.measured, "spread": each.spread or None, "paper": each.paper or None}
            for each in done.finding.headlines
        ],
        "checks": [{"what": check.what, "holds": check.holds} for check in done.finding.checks],
        "measures": [
            {"what": m.what, "values": list(m.values), "mean": m.mean, "unit": m.unit, "paper": m.paper or None}
            for m in done.finding.measures
        ],
        "seconds": round(done.seconds, 1),
        "command": done.command,
        "results": str(done.folder / "results.jsonl"),
        "report": str(done.folder / "report.html"),
    }
