"""Tiers of a fit behind HTTP: the smallest model answers what it is sure of, and hands on the rest.

    edgeprune fit examples/keywords.py --speedup 2,4 --out runs/keywords
    python examples/cascade_service.py runs/keywords

POST / with one query as raw float32 -> {"class": 3, "confidence": 0.98, "tier": "4x"}. The service needs
numpy and onnxruntime, and nothing of edgeprune: result.json of the run has the models and their thresholds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported
import onnxruntime


@dataclass(frozen=True)
class Tier:
    """One model; `least` is the confidence from which its answer counts."""

    name: str
    session: Any
    least: float


class Cascade:
    """Tiers of a run, the smallest first. One query at a time, as their latencies were proven.

    alone: the largest one answers everything. Raises `ValueError` for a run without a cascade.
    """

    def __init__(self, run: Path, alone: bool = False) -> None:
        result = json.loads((run / "result.json").read_text("utf-8"))
        found = result["cascade"]
        if found is None:
            raise ValueError(f"{run} has no cascade: {result['no_cascade'] or 'it has one budget'}")
        artefacts = {tier["name"]: run / tier["chosen"]["artefact"] for tier in result["tiers"]}
        leasts = [math.inf if each is None else each for each in found["thresholds"]]
        tiers = list(zip(found["tiers"], [*leasts, 0.0], strict=True))[-1 if alone else 0 :]
        threads = result["profile"]["threads"]
        self.tiers = [Tier(name, session(artefacts[name], threads), least) for name, least in tiers]
        (port,) = self.tiers[0].session.get_inputs()
        self.name, self.shape = port.name, (1, *port.shape[1:])
        self.bytes = 4 * math.prod(self.shape)
        self._turn = threading.Lock()

    def answer(self, query: bytes) -> dict[str, Any] | None:
        """Answer of the first tier that is sure enough; None for a query that is not finite.

        The confidence is the largest softmax probability.
        """
        feeds = {self.name: np.frombuffer(query, "<f4").reshape(self.shape)}
        if not np.isfinite(feeds[self.name]).all():
            return None
        with self._turn:
            for tier in self.tiers:
                (logits,) = tier.session.run(None, feeds)[0].astype(np.float64)
                confidence = float(1 / np.exp(logits - logits.max()).sum())
                if confidence >= tier.least:
                    break
        return {"class": int(logits.argmax()), "confidence": confidence, "tier": tier.name}


def session(artefact: Path, threads: int) -> Any:
    """ONNX Runtime with the settings that the model was measured with: the model card has them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("optimization.disable_specified_optimizers", "WeightBiasQuantization")
    return onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])


def service(cascade: Cascade, port: int = 0) -> ThreadingHTTPServer:
    """Server on this machine's loopback; port 0 is any that is free."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open
        wbufsize = -1  # an answer leaves in one piece

        def do_POST(self) -> None:
            whole = self.headers["Content-Length"] == str(cascade.bytes)
            answer = cascade.answer(self.rfile.read(cascade.bytes)) if whole else None
            if answer is None:
                self.close_connection = True
                refusal = f"a query is {cascade.bytes} bytes: finite float32 {cascade.shape}"
                self._send(400, {"error": refusal})
            else:
                self._send(200, answer)

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: a line for each request takes longer than the request."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the cascade of a fit over HTTP.")
    parser.add_argument("run", type=Path, help="the run folder of a fit with several budgets")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--alone", action="store_true", help="the largest tier answers everything")
    options = parser.parse_args()
    try:
        server = service(Cascade(options.run, options.alone), options.port)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
