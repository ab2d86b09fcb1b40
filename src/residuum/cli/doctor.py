"""Says what a report of a bug needs: versions, devices, threads, disk, caches; and tests this machine for some seconds.

Nothing is downloaded or sent, and nothing written but into temporary files. Of the environment only settings of
threads, GPUs and processes are shown. The exit code is 7 if a test fails or if something would stop training.

examples:
  residuum doctor
  residuum doctor --json > doctor.json
  residuum doctor --device cpu --no-self-test
"""

from __future__ import annotations

import argparse
import faulthandler
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residuum.cli import console, flags
from residuum.errors import VerificationError

if TYPE_CHECKING:
    from residuum.deploy.doctor import Finding, Result, Section

_WIDTH = 100
_LABEL = 18
_LISTED = 20
_STDERR = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    flags.add_device(parser)
    parser.add_argument("--no-self-test", action="store_true", help="only look, and compute nothing")
    flags.add_json(parser, "what was found")


def run(arguments: argparse.Namespace) -> int:
    """Examines."""
    from residuum.deploy import doctor

    if not faulthandler.is_enabled():  # a library that ends the process is to say where
        faulthandler.enable(_STDERR)
    say = (lambda text: None) if arguments.json else console.answer  # noqa: ARG005 (one document, at the end)
    sections = list(_told(doctor.examine(arguments.device), say))
    results = None if arguments.no_self_test else list(_tested(doctor.self_test(arguments.device), say))
    findings = [finding for section in sections for finding in section.findings]
    failed = [result for result in results or () if not result.ok]
    ok = not failed and all(finding.severity != "harm" for finding in findings)
    if arguments.json:
        console.answer_json(_document(sections, results, findings, ok))
    else:
        console.answer("\n".join(_conclusion(findings, failed, tested=results is not None)))
    return 0 if ok else VerificationError.exit_code


def _document(
    sections: Sequence[Section], results: Sequence[Result] | None, findings: Sequence[Finding], ok: bool
) -> Mapping[str, object]:
    return {
        **{section.name: section.facts for section in sections},
        "findings": [vars(finding) for finding in findings],
        "self_test": None if results is None else [result.as_dict() for result in results],
        "ok": ok,
    }


def _told(sections: Iterable[Section], say: Any) -> Iterator[Section]:
    for section in sections:
        if section.failed:
            say(_block(section.name, [("not known", section.facts["error"])]))
        else:
            say(_block(section.name, _ROWS[section.name](section.facts)))
        yield section


def _tested(results: Iterable[Result], say: Any) -> Iterator[Result]:
    say("Self-test")
    seconds = 0.0
    for result in results:
        said = "ok" if result.ok else "FAILED"
        say(_line(f"{said:<7}{result.name}", f"{console.duration(result.seconds):>6}  {result.detail}"))
        seconds += result.seconds
        yield result
    say(_line("       all", f"{console.duration(seconds):>6}\n"))


def _conclusion(findings: Sequence[Finding], failed: Sequence[Result], *, tested: bool) -> Iterator[str]:
    for severity, title in (("harm", "Would stop training"), ("note", "Worth knowing")):
        chosen = [finding for finding in findings if finding.severity == severity]
        if chosen:
            yield title
            for finding in chosen:
                yield from _wrapped(_short(finding.what), "  ")
                yield from _wrapped(finding.do, "    ")
            yield ""
    if failed:
        yield f"{len(failed)} of the tests failed: {', '.join(result.name for result in failed)}."
    elif any(finding.severity == "harm" for finding in findings):
        yield "Training will not work before what is named above is mended."
    else:
        yield "All is well." if tested else "Nothing stands in the way of training; nothing was tested."
    yield "To report a bug, send this page, the command that you gave, and all that it printed."


def _block(name: str, rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join([name.capitalize(), *(_line(label, text) for label, text in rows), ""])


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}".rstrip(" ")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _residuum(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "version", facts["version"] + (f", commit {facts['commit']}" if facts["commit"] else "")
    yield "folder", f"{_short(facts['folder'])} (from: {_short(facts['installed'])})"


def _system(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Python", f"{facts['python']}, {_short(facts['executable'])}"
    parts = (facts["distribution"], f"{facts['system']} {facts['kernel']} {facts['architecture']}", facts["libc"])
    yield "system", ", ".join(part for part in parts if part)


def _libraries(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, library in facts.items():
        wanted = f">= {library['wanted']}" if library["wanted"] else ""
        problem = f"  {library['problem'].upper()}" if library["problem"] else ""
        yield name, f"{library['version'] or '-':<16}{wanted}{problem}"


def _environment(facts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if not facts:
        yield "variables", "none of those that matter here is set"
    yield from (("variables" if not number else "", f"{key}={_short(facts[key])}") for number, key in enumerate(facts))


def _disk(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for place in facts["places"]:
        state = f"CANNOT BE WRITTEN ({place['refusal']})" if place["refusal"] else f"{_size(place['free_bytes'])} free"
        there = "" if place["exists"] else ", not there yet"
        yield place["use"], f"{state}, {_short(place['folder'])}{there}"
    cached = facts["cached"]
    if not cached:
        yield "in the cache", "nothing"
    for number, entry in enumerate(cached[:_LISTED]):
        files = "1 file" if entry["files"] == 1 else f"{entry['files']:,} files"
        yield "" if number else "in the cache", f"{entry['name']}, {files}, {_size(entry['bytes'])}"
    if len(cached) > _LISTED:
        yield "", f"and {len(cached) - _LISTED:,} more"


def _pictures(facts: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    for name, decoder in facts.items():
        yield name, decoder or "CANNOT BE DECODED"


def _devices(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "processor", f"{facts['processor']}, {'with' if facts['bf16_in_hardware'] else 'without'} bf16 instructions"
    quota = f", limited to {facts['cores_quota']:g} of their time" if facts["cores_quota"] else ""
    yield (
        "cores",
        f"{facts['cores']} of {facts['cores_in_machine']} for this process{quota}; torch computes in "
        + (f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"),
    )
    memory = facts["memory"]
    parts = [_size(memory["total_bytes"])]
    parts += [f"{_size(memory['available_bytes'])} available"] if memory["available_bytes"] is not None else []
    parts += [f"limited to {_size(memory['limit_bytes'])}"] if memory["limit_bytes"] is not None else []
    yield "memory", ", ".join(parts)
    for gpu in facts["gpus"]:
        bf16 = "with" if gpu["bf16_in_hardware"] else "without"
        yield gpu["device"], f"{gpu['name']}, {_size(gpu['memory_bytes'])}, capability {gpu['capability']}, {bf16} bf16"
    if facts["mps"]:
        yield "mps", "Apple's GPU"
    if not facts["gpus"] and not facts["mps"]:
        yield "GPU", "none that torch can use"
    built = next((f"{kind} {facts[kind.lower()]}" for kind in ("CUDA", "ROCm") if facts[kind.lower()]), "processors")
    cudnn = f", cuDNN {facts['cudnn']}" if facts["cudnn"] else ""
    yield "torch", f"{facts['torch']}, built for {built}{cudnn}; NVIDIA's driver: {facts['gpu_driver'] or 'none'}"
    yield "--device", facts["device"]
    yield "--precision auto", f"{facts['precision_auto']} there"
    yield (
        "compile = true",
        "can be used there" if facts["compile"] else f"cannot be used: there is no {facts['compile_lacks']}",
    )
    if facts["device"] == "cpu" and facts["precision_auto"] == "bf16":
        yield "fused steps", "used" if facts["fused"] else "not used: they need AVX-512 with bf16, and a C compiler"


def _distributed(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "backends", ", ".join(facts["backends"]) or "none: this torch cannot train in several processes"
    yield from _environment(facts["environment"])


_ROWS = {
    "residuum": _residuum,
    "system": _system,
    "libraries": _libraries,
    "environment": _environment,
    "disk": _disk,
    "pictures": _pictures,
    "devices": _devices,
    "distributed": _distributed,
}
"""What the facts of a section say to people: lines of a label and a text."""


def _size(count: int) -> str:
    """Returns bytes for people, in powers of ten: '512 B', '170 MB', '8.3 GB'."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB" if count >= 1e3 else f"{count} B"


def _short(text: str) -> str:
    """Returns a text with '~' for the home folder, whose name need not be in a report."""
    try:
        home = str(Path.home())
    except RuntimeError:  # nobody's
        return text
    return text.replace(f"{home}/", "~/") if home != "/" else text
