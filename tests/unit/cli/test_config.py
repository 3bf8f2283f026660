"""``penstock config show``: what a service says itself, without its secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from penstock_cli import config
from penstock_cli import main as cli
from penstock_cli.options import ExitCode


@pytest.fixture
def show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    monkeypatch.setattr(config, "SERVICES", ("ingest",))
    folder = tmp_path / "fraud"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text("pipeline: fraud\n")

    def run(*options: str) -> tuple[int, Any, str]:
        place = ("--data-dir", str(tmp_path), "--pipeline", str(folder), "--port-offset", "100")
        with pytest.raises(SystemExit) as ended:
            cli.main(["-o", "json", *options, "config", "show", *place])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(captured.out), captured.err

    return run


def test_a_service_has_the_stack_s_addresses_and_its_secrets_are_masked(
    show: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_INGEST_KAFKA__SASL_PASSWORD", "hunter2")
    code, document, _ = show()
    assert code == ExitCode.OK
    assert document["stack"]["ports"]["KAFKA"] == 9192
    kafka = document["services"]["ingest"]["kafka"]
    assert kafka["bootstrap_servers"] == "127.0.0.1:9192"
    assert kafka["sasl_password"].strip("*") == ""
    assert "hunter2" not in json.dumps(document)


def test_a_wrong_setting_is_named_and_the_code_tells(
    show: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_INGEST_KAFKA__BOOTSTRAP_SERVERS", "elsewhere:9092")
    monkeypatch.setenv("PENSTOCK_INGEST_PIPELINES", "[]")
    monkeypatch.setenv("PENSTOCK_INGEST_METRIC_PORT", "1")
    code, document, err = show("--profile", "prod")
    assert (code, document["services"]) == (ExitCode.FAILED, {})
    assert "PENSTOCK_INGEST_METRIC_PORT" in err
