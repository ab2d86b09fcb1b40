"""`residuum models`: the list of networks, for people and for programs."""

from __future__ import annotations

from speaking import Say

from residuum.models import MODELS


def test_json_lists_every_network_with_its_card(say: Say) -> None:
    said = say("models", "--json")
    assert (said.code, said.err) == (0, "")
    assert list(said.json) == ["models"]
    listed = {model["name"]: model for model in said.json["models"]}
    assert list(listed) == MODELS.names()
    assert listed["resnet50"]["params"] == 25_557_032  # torchvision's ResNet50_Weights metadata
    assert listed["resnet50"]["input_px"] == 224
    assert all(
        model.keys() >= {"name", "params", "multiply_adds", "source", "input_px", "twin"} for model in listed.values()
    )


def test_the_table_has_a_line_for_each(say: Say) -> None:
    said = say("models")
    assert (said.code, said.err) == (0, "")
    header, *lines = said.out.splitlines()
    assert header.split() == ["model", "parameters", "multiply-adds", "pixels", "source"]
    assert [line.split()[0] for line in lines] == MODELS.names()
    resnet50 = next(line for line in lines if line.startswith("resnet50 ")).split(maxsplit=5)
    assert resnet50[1:3] == ["25,557,032", "4.09"]  # torchvision's metadata: 4.089 G
    assert resnet50[3:5] == ["G", "224"]
    assert "arXiv:1512.03385" in resnet50[5]
