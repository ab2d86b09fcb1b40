"""Answers of timm's network as everybody computes them: eager in float32, or exported to onnxruntime or OpenVINO.

The pictures are random ones that are ready; the engines decide by themselves how many threads they use.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from arms import rate_of, serve
from torch import nn


def eager(model: nn.Module, images: torch.Tensor) -> Callable[[], Any]:
    def answer() -> Any:
        with torch.inference_mode():
            return model(images)

    return answer


def onnxruntime(model: nn.Module, images: torch.Tensor) -> Callable[[], Any]:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        torch.onnx.export(model, (images,), str(file), input_names=["images"], dynamo=True, external_data=False)
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    fed = {"images": images.numpy()}
    return lambda: session.run(None, fed)


def openvino(model: nn.Module, images: torch.Tensor) -> Callable[[], Any]:
    import openvino as ov

    converted = ov.convert_model(model, example_input=images)
    compiled = ov.compile_model(converted, "CPU")
    fed = images.numpy()
    return lambda: compiled(fed)


def answers(answer: Callable[[], Any], batch_size: int) -> Iterator[int]:
    for _ in itertools.count():
        answer()
        yield batch_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    engines = {"eager": eager, "onnxruntime": onnxruntime, "openvino": openvino}
    parser.add_argument("engine", choices=tuple(engines))
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=10)
    wanted = parser.parse_args()
    pictures = torch.randn(wanted.batch_size, 3, wanted.img_size, wanted.img_size)
    compute = engines[wanted.engine](timm.create_model(wanted.model).eval(), pictures)
    serve(rate_of(answers(compute, wanted.batch_size), wanted.steps))
