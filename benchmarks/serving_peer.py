"""The peer that serving.py measures: the same engine behind LitServe.

    .venv/bin/python benchmarks/serving_peer.py BUNDLE GOLDENS PORT THREADS

`/predict` takes the form of our `inspect`: `test` and `golden`, or `test` and `golden_id`, the name of a file in GOLDENS.
LitServe decodes a request in the worker that computes, and gives it up to 16 at once.
"""

# No `from __future__ import annotations`: LitServe reads what a request is from the annotation of `decode_request`.
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from changenet.inspection import Inspector

BATCH = 16


class Peer(litserve.LitAPI):
    """Decodes, compares, answers.

    Args:
        bundle: Of the network.
        goldens: Folder of the registered goldens.
        threads: Of the engine.
    """

    def __init__(self, bundle: str, goldens: Path, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=0.002)
        self.bundle = bundle
        self.goldens = goldens
        self.threads = threads

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe names it
        """Load the bundle and encode the goldens."""
        self.inspector = Inspector.load(self.bundle, threads=self.threads)
        engine = self.inspector.engine
        files = sorted(self.goldens.iterdir())
        levels = engine.prepare_golden(engine.encode(np.stack([self._decode(file.read_bytes()) for file in files])))
        self.kept = {file.name: [level[at] for level in levels] for at, file in enumerate(files)}

    def _decode(self, content: bytes) -> Any:
        return self.inspector.prepare_picture(content)

    def decode_request(self, request: Request) -> Any:
        """Return the test picture, and the golden's or its id."""
        golden = request.get("golden")
        chosen = self._decode(golden.file.read()) if golden is not None else request["golden_id"]
        return self._decode(request["test"].file.read()), chosen

    def batch(self, inputs: Any) -> Any:
        """Leave them as they are: goldens may be pictures or ids."""
        return inputs

    def unbatch(self, output: Any) -> Any:
        """Leave them as they are."""
        return output

    def predict(self, batch: Any) -> Any:
        """Compare, all new pictures in one call of the encoder."""
        engine = self.inspector.engine
        new = [golden for _, golden in batch if not isinstance(golden, str)]
        features = engine.encode(np.stack([*(test for test, _ in batch), *new]))
        encoded = engine.prepare_golden([level[len(batch) :] for level in features]) if new else []
        rows = iter(range(len(new)))
        halves = []
        for _, golden in batch:
            if isinstance(golden, str):
                halves.append(self.kept[golden])
            else:
                row = next(rows)
                halves.append([level[row] for level in encoded])
        tests = [level[: len(batch)] for level in features]
        output = engine.compare(tests, [np.stack(level) for level in zip(*halves, strict=True)])
        return self.inspector.verdicts(output)

    def encode_response(self, output: Any) -> Any:
        """Return the verdict."""
        return {"score": output.score, "threshold": output.threshold, "prediction": output.prediction}


if __name__ == "__main__":
    bundle, goldens, port, threads = sys.argv[1:]
    server = litserve.LitServer(Peer(bundle, Path(goldens), int(threads)), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
