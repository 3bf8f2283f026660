"""The bare loop and the frameworks: the peer scripts, each as a process of its own interpreter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import workloads
from contenders import BARE, Contender, Place, Running
from peer_environments import FRAMEWORKS, NoEnvironment, interpreter, release
from processes import ONE_THREAD, Pids, pids_of, process

MODEL: Final = "fraud"
"""Name of the peers' model in Triton; its output is called score."""
HERE: Final = Path(__file__).parent
SCRIPTS: Final = {
    "quix": ("p_quix.py", "apply, record by record", {}),
    "faust": ("p_faust.py", "take(1000)", {"MODE": "take"}),
    "bytewax": ("p_bytewax.py", "flat_map_batch; commits no offsets", {}),
    "faststream": ("p_faststream.py", "batches of 1,000", {}),
    "pathway": ("p_pathway.py", "batched UDF", {}),
}


@dataclass(frozen=True, slots=True)
class Peers:
    """The scripts of a folder on one Kafka and one Triton.

    Parameters
    ----------
    scripts
        Folder of p_bare.py.
    data_dir
        For logs, state and the model's file.
    triton
        host:port and a way to ask for its processes.
    """

    scripts: Path
    data_dir: Path
    bootstrap: str
    triton: tuple[str, Pids]
    environments: Path
    skipped: dict[str, str] = field(default_factory=dict)

    def contenders(self) -> list[Contender]:
        """Return those whose script is there; why others are left out is in ``skipped``."""
        if not (self.scripts / "p_bare.py").is_file():
            self.skipped["bare loop and frameworks"] = f"no p_bare.py in {self.scripts}"
            return []
        workloads.write_model(self._model, output="score")
        return [*self._bare(), *self._frameworks()]

    @property
    def _model(self) -> Path:
        return self.data_dir / "bare" / "model.onnx"

    def _bare(self) -> list[Contender]:
        here = sys.executable
        plain = [here, str(self.scripts / "p_bare.py")]
        whole = [here, str(HERE / "bare_full.py"), str(self.scripts)]
        once, least = "exactly once", "at least once"
        about = "confluent-kafka, fastavro, onnxruntime in process"
        transactions = {"MODE": "txn", "TXN_N": "10000"}
        return [
            Contender(BARE, "systems", about, least, "4 fields", self._script(plain)),
            Contender(
                "bare loop, transactions",
                "systems",
                f"{about}; 10,000 records or 100 ms each",
                once,
                "4 fields",
                self._script(plain, transactions),
            ),
            Contender(
                "bare loop, Triton",
                "systems",
                "confluent-kafka, fastavro, Triton over gRPC",
                least,
                "4 fields",
                self._script(plain, {"SCORER": "triton"}),
            ),
            Contender(
                "bare loop, Prediction", "systems", about, least, "Prediction", self._script(whole)
            ),
        ]

    def _frameworks(self) -> Iterator[Contender]:
        for peer in FRAMEWORKS:
            script, how, extra = SCRIPTS[peer]
            path = self.scripts / script
            if not path.is_file():
                self.skipped[peer] = f"no {script} in {self.scripts}"
                continue
            try:
                python = interpreter(peer, self.environments)
            except NoEnvironment as exc:
                self.skipped[peer] = str(exc)
                continue
            delivery = "none kept" if peer == "bytewax" else "at least once"
            about = f"{release(peer)}, {how}"
            start = self._script([str(python), str(path)], extra)
            yield Contender(peer, "systems", about, delivery, "4 fields", start)

    def _script(
        self, argv: list[str], extra: dict[str, str] | None = None
    ) -> partial[AbstractContextManager[Running]]:
        return partial(self._started, argv, extra or {})

    @contextmanager
    def _started(self, argv: list[str], extra: dict[str, str], place: Place) -> Iterator[Running]:
        address, triton = self.triton
        state = self.data_dir / "state" / place.tag
        state.mkdir(parents=True)
        environment = {
            **ONE_THREAD,
            "BOOT": self.bootstrap,
            "IN": place.source,
            "OUT": place.output,
            "GROUP": place.tag,
            "MODEL": str(self._model),
            "TRITON": address,
            "STATE": str(state),
            **extra,
        }
        log = self.data_dir / f"{place.tag}.log"
        more = triton if extra.get("SCORER") == "triton" else list
        with process(argv, environment, log) as started:
            yield Running(pids_of(started, log, more))
