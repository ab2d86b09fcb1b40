"""Transfer: what learns when and how fast, which head it starts with, and that a resumed run knows it all."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from residuum import bundle
from residuum.errors import RecipeError
from residuum.models import create_model
from residuum.models.convert import imagenet_classes
from residuum.models.pretrained import Pretrained
from residuum.models.saved import arrays
from residuum.models.weights import WEIGHTS
from residuum.recipe import AdamW, Augment, Muon, Recipe, Sgd, Transfer
from residuum.training import train as training
from residuum.training.build import build
from residuum.training.embedded import embed_once, embedding
from residuum.training.loop import fit, train_epoch
from residuum.training.optim import build as optimizer_of
from residuum.training.optim import set_lr
from residuum.training.run import Run
from residuum.training.start import start
from residuum.training.stop import Stop
from residuum.training.train import train
from residuum.training.transfer import choose_head, first_epochs, freezes, parts_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("transfer", "expected"),
    [
        (Transfer(), [0, 0, 0, 0, 0]),
        (Transfer(freeze="stem"), [math.inf, 0, 0, 0, 0]),
        (Transfer(freeze="stage2", head_epochs=3), [math.inf, math.inf, math.inf, 3, 0]),
        (Transfer(freeze="stage3"), [math.inf] * 4 + [0]),
        (Transfer(freeze="all", head_epochs=2), [math.inf] * 4 + [0]),
        (Transfer(head_epochs=2), [2, 2, 2, 2, 0]),
        (Transfer(head_epochs=1, thaw_every_epochs=2), [7, 5, 3, 1, 0]),
        (Transfer(freeze="stem", thaw_every_epochs=1), [math.inf, 2, 1, 0, 0]),
    ],
)
def test_when_the_parts_of_a_network_of_three_stages_begin(transfer: Transfer, expected: list[float]) -> None:
    assert first_epochs(transfer, 3) == expected


def test_a_stage_that_is_not_there_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'stage4' for a network of 3 stages.*stem, stage1, stage2, stage3, all"):
        build(replace(tiny, transfer=Transfer(freeze="stage4")), tmp_path, CPU)


@pytest.mark.parametrize(
    ("transfer", "why"),
    [
        (Transfer(stem_until_epoch=2, freeze="stage1"), "never learns"),
        (Transfer(stem_until_epoch=2, head_epochs=2), "after epoch 2"),
    ],
)
def test_a_stem_that_stops_before_it_begins_is_refused(
    transfer: Transfer, why: str, tiny: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=f"'transfer.stem_until_epoch' cannot be 2: the stem .*{why}"):
        build(replace(tiny, transfer=transfer), tmp_path, CPU)


def snapshot(run: Run) -> list[dict[str, Tensor]]:
    return [{name: value.clone() for name, value in part.state_dict().items()} for part in parts_of(run.model)]


def changed(before: list[dict[str, Tensor]], after: list[dict[str, Tensor]]) -> list[bool]:
    """Which parts changed in any tensor, statistics included."""
    return [
        any(not torch.equal(value, new[name]) for name, value in old.items())
        for old, new in zip(before, after, strict=True)
    ]


@pytest.mark.parametrize("optim", [Sgd(lr=0.05, nesterov=True), AdamW(lr=0.01), Muon(lr=0.02)], ids=lambda o: o.name)
def test_parts_learn_from_their_epoch_on_and_change_in_nothing_before(
    optim: Sgd | AdamW | Muon, tiny: Recipe, tmp_path: Path
) -> None:
    transfer = Transfer(freeze="stem", head_epochs=1, thaw_every_epochs=1)
    run = build(replace(tiny, epochs=5, transfer=transfer, optim=optim), tmp_path, CPU)
    seen = []
    for run.epoch in range(4):
        before = snapshot(run)
        train_epoch(run)
        seen.append(changed(before, snapshot(run)))
    assert seen == [
        [False, False, False, False, True],
        [False, False, False, True, True],
        [False, False, True, True, True],
        [False, True, True, True, True],
    ]


@pytest.mark.parametrize("optim", [Sgd(lr=0.05, nesterov=True), AdamW(lr=0.01), Muon(lr=0.02)], ids=lambda o: o.name)
def test_the_stem_may_stop(optim: Sgd | AdamW | Muon, tiny: Recipe, tmp_path: Path) -> None:
    run = build(replace(tiny, epochs=4, transfer=Transfer(stem_until_epoch=2), optim=optim), tmp_path, CPU)
    assert run.thawing.in_words() == "The stem learns until epoch 2."
    seen = []
    for run.epoch in range(4):
        before = snapshot(run)
        train_epoch(run)
        seen.append(changed(before, snapshot(run)))
    assert seen == 2 * [[True] * 5] + 2 * [[False, True, True, True, True]]


def test_a_stem_that_would_stop_after_the_run_does_not(tiny: Recipe, tmp_path: Path) -> None:
    run = build(replace(tiny, epochs=2, transfer=Transfer(stem_until_epoch=2)), tmp_path, CPU)
    assert run.thawing.in_words() == ""
    assert not freezes(Transfer(stem_until_epoch=2), stages=3, epochs=2)
    assert freezes(Transfer(stem_until_epoch=2), stages=3, epochs=3)


def test_norms_that_are_kept_learn_their_scales_and_keep_their_statistics(tiny: Recipe, tmp_path: Path) -> None:
    runs = {
        how: build(replace(tiny, transfer=Transfer(batch_norm=how)), tmp_path / how, CPU)  # type: ignore[arg-type]
        for how in ("keep", "adapt")
    }
    moved = {}
    for how, run in runs.items():
        before = {name: value.clone() for name, value in run.model.state_dict().items()}
        train_epoch(run)
        after = run.model.state_dict()
        moved[how] = {name for name, value in before.items() if not torch.equal(value, after[name])}
    statistics = {name for name, _ in runs["keep"].model.named_buffers()}
    assert moved["keep"] == {name for name, _ in runs["keep"].model.named_parameters()}
    assert moved["adapt"] == moved["keep"] | statistics


def test_rates_fall_with_depth() -> None:
    """One step of plain SGD moves each weight by the rate, times the decay for each part up to the head."""
    model = create_model("resnet20_cifar", num_classes=3, width=0.25)
    optimizer = optimizer_of(Sgd(lr=0.1, momentum=0, weight_decay=0), model, Transfer(layer_decay=0.5))
    before = [[p.detach().clone() for p in part.parameters()] for part in parts_of(model)]
    nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()  # type: ignore[no-untyped-call]
    set_lr(optimizer, 0.1)
    optimizer.step()
    for distance, (part, old) in enumerate(zip(reversed(parts_of(model)), reversed(before), strict=True)):
        for parameter, value in zip(part.parameters(), old, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(value - parameter, 0.1 * 0.5**distance * parameter.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("optim", [Sgd(lr=0.05, nesterov=True), AdamW(lr=0.01)], ids=lambda o: o.name)
@pytest.mark.parametrize(
    ("transfer", "steps"),
    [
        (Transfer(freeze="stem", head_epochs=1, thaw_every_epochs=1, layer_decay=0.7), 4),
        (Transfer(freeze="stem", head_epochs=1, thaw_every_epochs=1, layer_decay=0.7), 8),
        (Transfer(stem_until_epoch=1), 8),
    ],
    ids=["frozen", "thawed", "stem stopped"],
)
def test_a_run_that_thaws_or_stops_resumes_bit_for_bit(
    optim: Sgd | AdamW, transfer: Transfer, steps: int, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the epoch in which the head is alone, of the first one of the last stage, or of one
    after the stem's last."""
    monkeypatch.setattr(training, "finish", lambda _: None)
    data = replace(tiny.data, balanced_sampling=1.0)
    wanted = replace(tiny, transfer=transfer, optim=optim, data=data, class_weights=0.5, save_every_epochs=2)
    whole = train(wanted, out=tmp_path / "whole", device="cpu")
    folder = tmp_path / "stopped"
    folder.mkdir()
    run = start(wanted, folder, CPU, None, Stop())
    monkeypatch.setattr(Run, "between_steps", lambda self: _stop_after(self, steps))
    with pytest.raises(EnoughError):
        fit(run)
    monkeypatch.undo()
    monkeypatch.setattr(training, "finish", lambda _: None)
    resumed = train(resume=folder, device="cpu")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for kind in ("last", "best"):
        weights = [(place / kind / "model.safetensors").read_bytes() for place in (whole.folder, folder)]
        assert weights[0] == weights[1]


class EnoughError(Exception):
    """Raised in the place of a power cut."""


def _stop_after(run: Run, steps: int) -> None:
    if run.step == steps:
        run.save({}, best=False)
        raise EnoughError


def written(tmp_path: Path, classes: tuple[str, ...], in_channels: int = 3) -> Path:
    """A bundle of a random network for these classes."""
    torch.manual_seed(3)
    model = create_model("resnet20_cifar", num_classes=len(classes), width=0.25, in_channels=in_channels)
    options = {"name": "resnet20_cifar", "num_classes": len(classes), "in_channels": in_channels, "width": 0.25}
    mean = [0.5] * in_channels
    seen = {"mode": "RGB" if in_channels == 3 else "L", "img_size": 8, "resize_px": 8, "interpolation": "bilinear"}
    card = {"model": options, "classes": list(classes), "preprocessing": {**seen, "mean": mean, "std": mean}}
    folder = tmp_path / f"bundle-{'-'.join(classes)}"
    bundle.write(folder, arrays(model.state_dict()), {**card, "licence": "unspecified", "scores": {}})
    return folder


def started(tiny: Recipe, start_from: Path, folder: Path, **transfer: str) -> Run:
    wanted = replace(
        tiny,
        model=replace(tiny.model, weights=str(start_from), drop_path=None),
        transfer=Transfer(**transfer),  # type: ignore[arg-type]
    )
    return build(wanted, folder, CPU)


def test_the_head_is_kept_for_the_same_classes_and_new_for_others(tiny: Recipe, tmp_path: Path) -> None:
    same, other = written(tmp_path, ("class0", "class1", "class2")), written(tmp_path, ("cat", "dog", "emu"))
    more = written(tmp_path, ("a", "b", "c", "d"))

    def head(run: Run) -> Tensor:
        return run.model.state_dict()["head.fc.weight"]

    def body(run: Run) -> Tensor:
        return run.model.state_dict()["stages.2.2.branch.conv2.weight"]

    runs = {
        "same": started(tiny, same, tmp_path / "1"),
        "same, new": started(tiny, same, tmp_path / "2", head="new"),
        "other": started(tiny, other, tmp_path / "3"),
        "other, keep": started(tiny, other, tmp_path / "4", head="keep"),
        "more": started(tiny, more, tmp_path / "5"),
    }
    assert all(torch.equal(body(run), body(runs["same"])) for name, run in runs.items() if name != "more")
    assert torch.equal(head(runs["same"]), head(runs["other, keep"]))  # from the same seed
    for name in ("same, new", "other"):
        assert not torch.equal(head(runs[name]), head(runs["same"]))
        assert "Its head is new" in (runs[name].folder / "log.txt").read_text()
    assert runs["more"].model.num_classes == 3
    with pytest.raises(RecipeError, match="have no classifier for 3 classes"):
        started(tiny, more, tmp_path / "6", head="keep")


def test_pictures_are_opened_as_the_weights_take_them(tiny: Recipe, tmp_path: Path) -> None:
    """Digits are grey; a network that has seen colours gets them in colour, and its recipe and its bundle say so."""
    grey = replace(tiny, data=replace(tiny.data, source="digits"))
    coloured = started(grey, written(tmp_path, ("x", "y")), tmp_path / "run")
    assert (coloured.preprocessing.mode, coloured.model.in_channels, coloured.recipe.data.mode) == ("RGB", 3, "RGB")
    assert build(coloured.recipe, tmp_path / "again", CPU, fresh=False).preprocessing == coloured.preprocessing
    alone = started(grey, written(tmp_path, ("x", "y", "z"), in_channels=1), tmp_path / "grey")
    assert (alone.preprocessing.mode, alone.model.in_channels, alone.recipe.data.mode) == ("L", 1, "auto")


@pytest.fixture
def probe(tiny: Recipe) -> Recipe:
    """The tiny recipe with nothing but a head to learn, and nothing that changes a picture."""
    return replace(tiny, transfer=Transfer(freeze="all"), augment=Augment(), class_weights=0.5, accumulate=1)


def test_a_head_learns_the_same_from_embeddings(probe: Recipe, tmp_path: Path) -> None:
    slow, fast = (build(probe, tmp_path / name, CPU) for name in ("slow", "fast"))
    fit(slow)
    looks = []
    fast.model.stem.register_forward_hook(lambda *_: looks.append(1))
    embed_once(fast)
    once = len(looks)
    fit(fast)
    assert once == len(looks)
    torch.testing.assert_close(fast.model.state_dict(), slow.model.state_dict(), rtol=1e-4, atol=1e-6)
    found, expected = fast.records.epochs(), slow.records.epochs()
    for key in ("loss", "val_loss", "val_top1"):
        assert [r[key] for r in found] == pytest.approx([r[key] for r in expected], rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"transfer": Transfer(freeze="stage2")}, {"augment": Augment(flip="random")}, {"model": "wrn16_8_cifar"}],
    ids=["a stage learns", "augmentation", "a norm in the head"],
)
def test_embeddings_are_not_kept_where_they_change(change: dict[str, object], probe: Recipe, tmp_path: Path) -> None:
    if "model" in change:
        change = {"model": replace(probe.model, name="wrn16_8_cifar", width=0.25)}
    run = build(replace(probe, **change), tmp_path, CPU)  # type: ignore[arg-type]
    before = run.forward
    embed_once(run)
    assert run.forward is before
    assert run.train_loader.pictures is run.train_loader


def test_a_probe_leaves_an_ordinary_bundle(probe: Recipe, class_folders: Path, tmp_path: Path) -> None:
    wanted = replace(probe, data=replace(probe.data, on_bad_image="skip"))
    run = train(wanted, data=str(class_folders), out=tmp_path / "run", device="cpu")
    assert run.result is not None
    assert run.result.scores.images == 17
    assert "the head learns from their embeddings" in (run.folder / "log.txt").read_text()
    assert (run.folder / "report.html").is_file()
    again = train(resume=run.folder, device="cpu", epochs=4)
    assert again.epoch == 4


def test_the_embedding_is_what_the_classifier_sees() -> None:
    for name in ("resnet20_cifar", "wrn16_8_cifar"):
        model = create_model(name, num_classes=3, width=0.25).eval()
        images = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(model.get_submodule("head.fc")(embedding(model, images)), model(images))


def test_pictures_are_normalised_as_for_the_weights_on_resumption_too(tiny: Recipe, tmp_path: Path) -> None:
    """A body that never changes was trained on pictures with the mean and deviation of its own set."""
    source = written(tmp_path, ("x", "y"))
    run = started(tiny, source, tmp_path / "run", freeze="all")
    assert (run.preprocessing.mean, run.preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (run.recipe.data.mean, run.recipe.data.std) == ((0.5,) * 3, (0.5,) * 3)
    assert build(run.recipe, tmp_path / "again", CPU, fresh=False).preprocessing == run.preprocessing
    alone = build(replace(tiny, model=replace(tiny.model, drop_path=None)), tmp_path / "alone", CPU)
    assert alone.preprocessing.mean != run.preprocessing.mean
    assert alone.recipe.data.mean is None
    chosen = replace(tiny, data=replace(tiny.data, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    assert started(chosen, source, tmp_path / "chosen").preprocessing.mean == (0.1, 0.2, 0.3)
    for data in ({"mean": (0.5,), "std": (0.5,)}, {"mean": (0.5, 0.5, 0.5)}):
        with pytest.raises(RecipeError, match=r"data\.mean and data\.std have . and . numbers, and the pictures 3"):
            build(replace(tiny, data=replace(tiny.data, **data)), tmp_path / "refused", CPU)  # type: ignore[arg-type]


def test_a_licence_is_handed_on_to_what_is_made_of_the_weights(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)
    monkeypatch.setenv("RESIDUUM_ACCEPT_LICENSE", "1")
    source = written(tmp_path, ("class0", "class1", "class2"))
    tensors, card = bundle.read(source)
    bundle.write(source, tensors, {**card, "licence": "CC-BY-NC-4.0"})
    wanted = replace(tiny, epochs=1, model=replace(tiny.model, weights=str(source), drop_path=None))
    run = train(wanted, out=tmp_path / "run", device="cpu")
    assert bundle.read(run.folder / "best")[1]["licence"] == "CC-BY-NC-4.0"
    resumed = train(resume=run.folder, device="cpu", epochs=2)
    assert bundle.read(resumed.folder / "last")[1]["licence"] == "CC-BY-NC-4.0"
    alone = train(replace(wanted, model=tiny.model), out=tmp_path / "alone", device="cpu")
    assert bundle.read(alone.folder / "best")[1]["licence"] == "unspecified"


def test_the_head_is_kept_only_where_the_weights_say_that_it_is_for_these_classes(tiny: Recipe, tmp_path: Path) -> None:
    """A file of tensors may have as many classes as the pictures and mean others."""
    torch.manual_seed(3)
    state = create_model("resnet20_cifar", num_classes=3, width=0.25).state_dict()
    torch.save(state, tmp_path / "net.th")
    runs = {head: started(tiny, tmp_path / "net.th", tmp_path / head, head=head) for head in ("auto", "keep")}
    same = {
        head: torch.equal(run.model.state_dict()["head.fc.weight"], state["head.fc.weight"])
        for head, run in runs.items()
    }
    assert same == {"auto": False, "keep": True}
    said = (runs["auto"].folder / "log.txt").read_text()
    assert (
        "Its head is new: the weights do not say for which classes theirs is (to keep it: --set transfer.head=keep)."
        in said
    )
    assert "head is new" not in (runs["keep"].folder / "log.txt").read_text()


def test_weights_that_are_known_by_name_have_imagenets_classes() -> None:
    model = create_model("resnet20_cifar", num_classes=1000, width=0.25)
    start = Pretrained("resnet18.imagenet1k_v1", model.state_dict(), known=WEIGHTS["resnet18.imagenet1k_v1"])
    before = model.state_dict()["head.fc.weight"].clone()
    assert choose_head(model, start, Transfer(), imagenet_classes()) == ""
    assert torch.equal(model.state_dict()["head.fc.weight"], before)
    others = choose_head(model, start, Transfer(), [f"n{number:08d}" for number in range(1000)])
    assert "Its head is new: theirs is for other classes (to keep it: --set transfer.head=keep)." in others
    assert not torch.equal(model.state_dict()["head.fc.weight"], before)
