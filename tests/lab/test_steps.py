"""Steps of a network on noise, as `depth` takes them of ResNet-1202."""

from __future__ import annotations

import json
import resource
import sys

import pytest
import torch
import torch.nn.functional as F

from residuum.errors import ResourceError
from residuum.lab import steps
from residuum.models import create_model

NET = "resnet20_cifar"


def test_the_first_loss_is_the_new_networks_and_the_peak_is_the_systems() -> None:
    found = steps.take(NET, 4, 2)
    torch.manual_seed(0)
    model = create_model(NET).train()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = float(F.cross_entropy(model(images), torch.arange(4)))
    assert found["losses"][0] == pytest.approx(expected, rel=1e-4)
    assert len(found["losses"]) == 2
    assert found["losses"][1] != found["losses"][0], "no step was taken"
    if sys.platform == "linux":
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        assert found["peak_bytes"] == pytest.approx(most, rel=0.05)


def test_a_loss_that_is_not_finite_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps.optim, "build", lambda _, model: torch.optim.SGD(model.parameters(), lr=1e30))
    losses = steps.take(NET, 4, 3)["losses"]
    assert losses[0] is not None
    assert losses[2] is None
    json.dumps(losses, allow_nan=False)


@pytest.mark.slow
def test_a_process_of_its_own_answers_or_says_why_not() -> None:
    assert len(steps.measured(NET, 2, 1, 24)["losses"]) == 1
    with pytest.raises(ResourceError, match=r"resnet21 did not take its steps: .*No model is called") as error:
        steps.measured("resnet21_cifar", 2, 1, 24)
    assert error.value.expected == "Expected 24 GB of free memory."
