from __future__ import annotations

from pathlib import Path

import pytest
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_schemas.errors import BrokerUnavailable, ConfigError
from penstock_schemas.records import RoutingState
from penstock_streaming.timing import Deadline
from penstock_training import first_model as module
from penstock_training.first_model import Addresses, provide_first_model
from penstock_training.publish import MODEL_FILE, served_name
from penstock_training.tracking import RegisteredModel

TINY = """
pipeline: tiny
event: {key: machine}
features: [{name: heat, from: heat}]
model: {kind: logistic, bootstrap: {data: rows.csv}}
"""
EVENT = """{"type": "record", "name": "Reading", "fields": [
{"name": "event_id", "type": "string"}, {"name": "machine", "type": "string"},
{"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
{"name": "heat", "type": "double"}]}"""


class Neighbours:
    """What the job talks to, in memory."""

    def __init__(self) -> None:
        self.state: RoutingState | None = None
        self.registered: list[RegisteredModel] = []
        self.loaded: list[str] = []
        self.trained = 0
        self.outages = 0

    def latest(self, timeout_s: float) -> RoutingState | None:
        if self.outages:
            self.outages -= 1
            raise BrokerUnavailable("still starting", retry_after_s=0.0)
        return self.state

    def write(self, make, timeout_s: float) -> RoutingState:  # type: ignore[no-untyped-def]
        self.state = make(self.state)
        return self.state

    def champion(self) -> RegisteredModel | None:
        return self.registered[-1] if self.registered else None

    def version(self, version: str) -> RegisteredModel:
        return next(m for m in self.registered if m.version == version)

    def log(self, record, commit: str) -> RegisteredModel:  # type: ignore[no-untyped-def]
        content = record.model.SerializeToString()
        number = str(len(self.registered) + 1)
        self.registered.append(RegisteredModel("tiny", number, "run", commit, content))
        return self.registered[-1]


@pytest.fixture
def neighbours(monkeypatch: pytest.MonkeyPatch) -> Neighbours:
    neighbours = Neighbours()
    real_train = module._train

    def train(pipeline: LoadedPipeline):  # type: ignore[no-untyped-def]
        neighbours.trained += 1
        return real_train(pipeline)

    monkeypatch.setattr(module, "RoutingTopic", lambda *_: neighbours)
    monkeypatch.setattr(module, "Tracker", lambda *_: neighbours)
    monkeypatch.setattr(module, "_train", train)
    monkeypatch.setattr(module, "load", lambda _, name, __: neighbours.loaded.append(name))
    return neighbours


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text(TINY)
    (folder / "event.avsc").write_text(EVENT)
    rows = [f"m{i % 3},{i},{i % 7},{int(i % 7 > 3)}" for i in range(100)]
    (folder / "rows.csv").write_text("\n".join(["machine,event_time,heat,label", *rows]))
    return folder


@pytest.fixture
def places(tmp_path: Path) -> Addresses:
    return Addresses("k:1", "http://r", "m", "t:1", tmp_path / "models", tmp_path / "feast", 10.0)


def test_first_start_trains_registers_publishes_loads_and_routes(
    neighbours: Neighbours, folder: Path, places: Addresses
) -> None:
    state = provide_first_model(folder, places)
    champion = state.champion
    assert champion is not None
    assert (state.revision, champion.served_as, champion.weight) == (1, "tiny__1", 100)
    assert neighbours.loaded == ["tiny__1"]
    file = places.models_dir / "tiny__1" / MODEL_FILE
    assert file.read_bytes() == neighbours.registered[0].onnx_bytes
    assert champion.digest == neighbours.registered[0].digest


def test_second_start_only_loads(neighbours: Neighbours, folder: Path, places: Addresses) -> None:
    first = provide_first_model(folder, places)
    again = provide_first_model(folder, places)
    assert again is first
    assert neighbours.trained == 1
    assert neighbours.loaded == ["tiny__1", "tiny__1"]


def test_lost_files_come_back_from_the_registry(
    neighbours: Neighbours, folder: Path, places: Addresses
) -> None:
    provide_first_model(folder, places)
    file = places.models_dir / "tiny__1" / MODEL_FILE
    content = file.read_bytes()
    (places.models_dir / "tiny__1").rename(places.models_dir / "gone")
    provide_first_model(folder, places)
    assert file.read_bytes() == content
    assert len(neighbours.registered) == 1


def test_job_killed_before_routing_goes_on_with_the_registered_model(
    neighbours: Neighbours, folder: Path, places: Addresses
) -> None:
    provide_first_model(folder, places)
    neighbours.state = None
    state = provide_first_model(folder, places)
    assert state.champion is not None
    assert state.champion.version == "1"
    assert neighbours.trained == 1


def test_changed_file_is_never_served(
    neighbours: Neighbours, folder: Path, places: Addresses
) -> None:
    provide_first_model(folder, places)
    (places.models_dir / "tiny__1" / MODEL_FILE).write_bytes(b"other")
    with pytest.raises(ConfigError, match="digest"):
        provide_first_model(folder, places)
    assert neighbours.loaded == ["tiny__1"]


def test_outages_at_the_start_are_waited_out(
    neighbours: Neighbours, folder: Path, places: Addresses
) -> None:
    neighbours.outages = 3
    assert provide_first_model(folder, places).champion is not None


def test_waiting_ends_with_the_deadline() -> None:
    def call() -> None:
        raise BrokerUnavailable("away", retry_after_s=1.0)

    with pytest.raises(BrokerUnavailable):
        module._patiently(call, Deadline(0.0))


def test_rival_that_was_faster_wins(
    neighbours: Neighbours, folder: Path, places: Addresses
) -> None:
    state = provide_first_model(folder, places)
    assert module._first_state(state, neighbours.registered[0]) is state


def test_versions_have_names_of_their_own() -> None:
    assert served_name("fraud", "7") == "fraud__7"


def test_pipeline_without_feast_needs_no_store(folder: Path, places: Addresses) -> None:
    module.prepare_features(load_pipeline(folder), places.feast_dir / "tiny")
    assert not places.feast_dir.exists()
