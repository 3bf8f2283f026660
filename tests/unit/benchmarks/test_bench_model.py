"""The wide model is what Triton is told it is, and the share is taken within each repeat."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import cast

import bench_model
import numpy as np
import onnxruntime
import pytest
import workloads
from bench_inference import Bench
from bench_model import Direct
from contenders import Contender
from measure import Measured
from penstock_runs import Penstock


@pytest.mark.parametrize("hidden", [(64,), (128, 32)])
def test_the_model_has_the_layers_asked_for_and_one_score_per_row(
    tmp_path: Path, hidden: tuple[int, ...]
) -> None:
    served = workloads.Served(hidden, "KIND_GPU")
    workloads.write_triton_model(tmp_path, "wide", "scores", served)
    assert "kind: KIND_GPU" in (tmp_path / "wide" / "config.pbtxt").read_text()
    model = tmp_path / "wide" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    matrix = np.random.default_rng(1).normal(size=(7, workloads.N_FEATURES)).astype(np.float32)
    (scores,) = session.run(["scores"], {"features": matrix})
    assert scores.shape == (7, 1)
    assert ((scores >= 0) & (scores <= 1)).all()
    sizes = [workloads.N_FEATURES, *hidden, 1]
    weights = sum(a * b + b for a, b in pairwise(sizes))
    assert model.stat().st_size == pytest.approx(4 * weights, rel=0.1)


def measured(rate: float) -> Measured:
    return Measured(1, 1.0, rate, 1.0, 1.0, 1.0)


def test_the_share_is_the_median_of_those_within_each_repeat() -> None:
    bench = Bench(argparse.Namespace(), cast(Penstock, None), {})
    router = Contender("router", "costs", "", "", "", started=lambda _: pytest.fail("not run"))
    bench.results["router"] = {0: measured(90.0), 1: measured(50.0), 2: measured(280.0)}
    text = bench_model.table([Direct(100.0), Direct(100.0), Direct(400.0)], bench, [router])
    assert "| client alone | 3 | 100 (100 to 400) | 1.00 |" in text
    assert "| router | 3 | 90 (50 to 280) | 0.70 |" in text


def test_a_server_elsewhere_needs_its_repository(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_model.options_of(["--triton", "gpu:8001"])
    assert "--triton and --models" in capsys.readouterr().err
