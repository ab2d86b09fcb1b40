"""Networks, by name: `create_model("resnet50")`. Knows nothing of data, training or recipes."""

from __future__ import annotations

from residuum.models._catalog import MODELS, Card, create_model
from residuum.models.layers import Network

__all__ = ["MODELS", "Card", "Network", "create_model"]
