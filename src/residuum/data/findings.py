"""What `residuum check` can find, how bad each kind is and why, and what to do about it.

"harm": training stops at it, or what it learns or reports is wrong. "note": training goes well with it, and the owner
of the pictures may still want to know.

| kind                               | severity | because                                                              |
|------------------------------------|----------|----------------------------------------------------------------------|
| `no-pictures`                      | harm     | there is nothing to train on                                         |
| `no-training-part`                 | harm     | training refuses a set that has only val or test                     |
| `one-class`                        | harm     | there is nothing to tell apart                                       |
| `empty-classes`                    | harm     | training refuses a class without a picture to learn from             |
| `classes-differ`                   | harm     | training refuses splits that name different classes                  |
| `missing`                          | harm     | training stops at a picture that is not there                        |
| `empty`                            | harm     | training stops at it, as at the next three                           |
| `truncated`                        | harm     | half a picture may be grey: the label is right and the pixels are no |
| `not-an-image`                     | harm     | there is nothing to decode                                           |
| `unreadable`                       | harm     | the decoder or the system refuses it                                 |
| `duplicates-across-splits`         | harm     | the score is measured on pictures that were trained on               |
| `near-duplicates-across-splits`    | harm     | the same; saving a picture again does not make it a new one          |
| `conflicting-duplicates`           | harm     | one of the labels is wrong                                           |
| `conflicting-near-duplicates`      | harm     | the same                                                             |
| `duplicates`                       | note     | they weigh more than others; held-out pictures may be among them     |
| `near-duplicates`                  | note     | the same                                                             |
| `stray-pictures`                   | note     | they have no class, and are not used                                 |
| `unused-folders`                   | note     | what lies beside train/ and val/ is not used                         |
| `hidden-folders`, `hidden-files`   | note     | they are not used                                                    |
| `ignored-extensions`               | note     | they are not used; photos may be among them, as .heic                |
| `graphics`                         | note     | a few GIFs among photos are not used                                 |
| `unlabelled`                       | note     | a part without labels is not used                                    |
| `several-labels`                   | note     | every class is a question of its own: is it there or not             |
| `no-class`                         | note     | pictures of none of the classes teach what is none of them           |
| `unscored-classes`                 | note     | the score of val or test says nothing about them                     |
| `suspicious-labels`                | note     | what a network sees speaks for another class: look, and decide       |
| `few-pictures`                     | note     | fewer than 10 training pictures teach little                         |
| `imbalance`                        | note     | a class of 10 times more pictures may be guessed too often           |
| `small`                            | note     | little can be seen in less than 32 pixels, among larger pictures     |
| `wrong-extension`                  | note     | formats are told by content here; other programs may go by the name  |
| `rotated`                          | note     | they are turned upright here; other programs may not do so           |
| `16-bit`                           | note     | they become 8-bit                                                    |
| `cmyk`                             | note     | they become RGB, without their colour profile                        |
| `alpha`                            | note     | what is transparent becomes white                                    |
| `animated`                         | note     | only the first frame is used                                         |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["harm", "note"]

_REPLACE = (
    "Copy or download them again, or take them out; --on-bad-image skip trains without up to 5 % of the pictures."
)
_ONE_SIDE = (
    "Keep each picture in one split only: the score on pictures that were trained on says nothing about new ones."
)
_ONE_LABEL = "Decide which class is right, and remove the other copies."


@dataclass(frozen=True)
class Kind:
    """A kind of finding: `one` says it of one thing, `many` of `{count}` (in `{groups}`, or naming those `{listed}`);
    `do` is what to do about it."""

    severity: Severity
    one: str
    many: str
    do: str


KINDS: Mapping[str, Kind] = {
    "no-pictures": Kind(
        "harm",
        "There is no picture to train on",
        "There is no picture to train on",
        "Put JPEG, PNG, WebP, BMP or TIFF files into one folder for each class.",
    ),
    "no-training-part": Kind(
        "harm",
        "There are no training pictures, only those of {listed}",
        "There are no training pictures, only those of {listed}",
        "Add a folder train/ (in a table: the split train). A trained model is scored on it with: "
        "residuum evaluate BUNDLE --data DATA",
    ),
    "one-class": Kind(
        "harm",
        "There is one class only, {listed}",
        "",
        "Add a class: a folder with pictures of something else.",
    ),
    "empty-classes": Kind(
        "harm",
        "1 class has no training picture",
        "{count} classes have no training picture",
        "Put pictures into the folder, or remove it.",
    ),
    "classes-differ": Kind(
        "harm",
        "1 class is not in all splits",
        "{count} classes are not in all splits",
        "Give every split the same class folders; look for names that are spelt in two ways. "
        "A class without pictures in val or test may have an empty folder there.",
    ),
    "missing": Kind(
        "harm", "1 picture is not there", "{count} pictures are not there", "Correct the table or the link."
    ),
    "empty": Kind("harm", "1 file is empty: 0 bytes", "{count} files are empty: 0 bytes", _REPLACE),
    "truncated": Kind(
        "harm",
        "1 picture is cut off: the end of its file is missing",
        "{count} pictures are cut off: the ends of their files are missing",
        _REPLACE,
    ),
    "not-an-image": Kind(
        "harm",
        "1 file is called a picture and is none",
        "{count} files are called pictures and are none",
        "Take them out; HEIC and AVIF must be converted to JPEG first.",
    ),
    "unreadable": Kind("harm", "1 picture cannot be read", "{count} pictures cannot be read", _REPLACE),
    "duplicates-across-splits": Kind(
        "harm",
        "",
        "{count} pictures in {groups} have copies in another split, the same to the pixel",
        _ONE_SIDE,
    ),
    "near-duplicates-across-splits": Kind(
        "harm",
        "",
        "{count} pictures in {groups} look the same as others in another split: saved again, or resized",
        _ONE_SIDE,
    ),
    "conflicting-duplicates": Kind(
        "harm",
        "",
        "{count} pictures in {groups} have copies in another class, the same to the pixel",
        _ONE_LABEL,
    ),
    "conflicting-near-duplicates": Kind(
        "harm",
        "",
        "{count} pictures in {groups} look the same as others in another class: saved again, or resized",
        _ONE_LABEL,
    ),
    "duplicates": Kind(
        "note",
        "",
        "{count} pictures in {groups} are the same to the pixel",
        "Keep one of each: copies weigh more than other pictures, "
        "and where pictures are held out by chance, copies of them may be trained on.",
    ),
    "near-duplicates": Kind(
        "note",
        "",
        "{count} pictures in {groups} look the same: saved again, or resized",
        "Keep the best of each, for the same reasons as with exact copies.",
    ),
    "stray-pictures": Kind(
        "note",
        "1 picture lies outside of the class folders and is not used",
        "{count} pictures lie outside of the class folders and are not used",
        "Move them into the folder of their class.",
    ),
    "unused-folders": Kind(
        "note",
        "1 folder beside the splits is not used",
        "{count} folders beside the splits are not used",
        "If it is a split, call it train, val or test; if it is a class, move it into them.",
    ),
    "hidden-folders": Kind(
        "note",
        "1 hidden folder is not used",
        "{count} hidden folders are not used",
        "Nothing to do, unless your pictures are in there: then rename it.",
    ),
    "hidden-files": Kind(
        "note",
        "1 hidden file is not used",
        "{count} hidden files are not used",
        "Nothing to do: systems leave such files behind.",
    ),
    "ignored-extensions": Kind(
        "note",
        "1 file is not used, by its extension",
        "{count} files are not used, by their extensions",
        "Nothing to do if they are no photos. Photos in formats such as .heic, .avif or a camera's own must be "
        "converted to JPEG first.",
    ),
    "graphics": Kind(
        "note",
        "1 GIF is taken for a graphic and not used",
        "{count} GIFs are taken for graphics and not used",
        "If they are photos, save them as PNG. (Where 5 % of the pictures or more are GIFs, they are used.)",
    ),
    "unlabelled": Kind("note", "1 part is not used", "{count} parts are not used", "Add labels, if they are known."),
    "several-labels": Kind(
        "note",
        "A picture may have the class {listed} or not, for labels hold |",
        "A picture may have several of the {count} classes, for labels hold |",
        "Nothing to do if so. Where | is a letter of a name: residuum train --set data.labels=one",
    ),
    "no-class": Kind(
        "note",
        "1 picture has none of the classes, by an empty label",
        "{count} pictures have none of the classes, by an empty label",
        "Nothing to do if so: such pictures are worth having. Otherwise add their labels.",
    ),
    "unscored-classes": Kind(
        "note",
        "1 class has no pictures in val or test",
        "{count} classes have no pictures in val or test",
        "Move some there: without any, the score says nothing about them.",
    ),
    "suspicious-labels": Kind(
        "note",
        "1 picture looks like another class than its own",
        "{count} pictures look like other classes than their own",
        "Look at each: some are in the wrong class, others are hard to tell. Nothing was moved.",
    ),
    "few-pictures": Kind(
        "note",
        "1 class has fewer than 10 training pictures",
        "{count} classes have fewer than 10 training pictures",
        "Add pictures: a hundred of each are a good start.",
    ),
    "imbalance": Kind(
        "note",
        "1 class has less than a tenth of the training pictures of the largest",
        "{count} classes have less than a tenth of the training pictures of the largest",
        "Add pictures of these. Until then look at the scores of each class, and not only at the accuracy.",
    ),
    "small": Kind(
        "note",
        "1 picture is very small: its shorter side has less than 32 pixels",
        "{count} pictures are very small: their shorter sides have less than 32 pixels",
        "Look whether they are thumbnails or icons, and replace them by the pictures themselves.",
    ),
    "wrong-extension": Kind(
        "note",
        "1 picture has another format than its name says",
        "{count} pictures have other formats than their names say",
        "Nothing to do for residuum, which goes by the content. Rename them for other programs.",
    ),
    "rotated": Kind(
        "note",
        "1 picture is stored turned or mirrored, and upright by its EXIF data",
        "{count} pictures are stored turned or mirrored, and upright by their EXIF data",
        "Nothing to do for residuum, which turns them upright. Boxes or masks drawn in other programs may lie wrong.",
    ),
    "16-bit": Kind(
        "note",
        "1 picture has more than 8 bits a channel",
        "{count} pictures have more than 8 bits a channel",
        "Nothing to do if they use the whole range of brightness. If they look black in the report, scale them first.",
    ),
    "cmyk": Kind(
        "note",
        "1 picture is in CMYK, the colours of printing",
        "{count} pictures are in CMYK, the colours of printing",
        "Nothing to do if their colours look right in the report: they become RGB without a colour profile.",
    ),
    "alpha": Kind(
        "note",
        "1 picture may be transparent in places",
        "{count} pictures may be transparent in places",
        "Nothing to do if white is a good background: it is put behind them.",
    ),
    "animated": Kind(
        "note",
        "1 picture has several frames or pages, of which the first is used",
        "{count} pictures have several frames or pages, of which the first is used",
        "Nothing to do if the first frame shows the class. Otherwise save the right ones as pictures of their own.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    `files` are paths, or names of classes or parts where the kind is about those; `remarks` say more about some of
    them. `groups` say which of the files are copies of one another. `rows` are the places of the pictures in the whole
    set, beside `files` and `groups`; empty where the files are not part of the set.
    """

    kind: str
    files: Sequence[str]
    what: str
    groups: Sequence[Sequence[str]] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[int] = ()
    row_groups: Sequence[Sequence[int]] = ()

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity

    @property
    def do(self) -> str:
        """What to do about it."""
        return KINDS[self.kind].do

    def as_dict(self) -> dict[str, object]:
        """The finding in JSON's types."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": len(self.files),
            "files": list(self.files),
            "what": self.what,
            "do": self.do,
            "remarks": dict(self.remarks),
            "groups": [list(group) for group in self.groups],
        }


def of_files(
    kind: str,
    files: Sequence[str],
    *,
    remarks: Mapping[str, str] | None = None,
    rows: Sequence[int] = (),
    more: str = "",
) -> list[Finding]:
    """Returns the finding that `files` are of `kind`, or nothing where there are none; `more` ends its sentence."""
    if not files:
        return []
    template = KINDS[kind].one if len(files) == 1 else KINDS[kind].many
    text = template.format(count=f"{len(files):,}", listed=" and ".join(files[:3]))
    return [Finding(kind, files, f"{text}{more}.", remarks=remarks or {}, rows=rows)]


def of_groups(
    kind: str, names: Sequence[Sequence[str]], rows: Sequence[Sequence[int]], remarks: Mapping[str, str]
) -> list[Finding]:
    """Returns the finding that the pictures of each group are of `kind` among themselves, or nothing."""
    if not names:
        return []
    files = [name for group in names for name in group]
    groups = "1 group" if len(names) == 1 else f"{len(names):,} groups"
    text = KINDS[kind].many.format(count=f"{len(files):,}", groups=groups)
    flat = [row for group in rows for row in group]
    return [Finding(kind, files, f"{text}.", groups=names, remarks=remarks, rows=flat, row_groups=rows)]
