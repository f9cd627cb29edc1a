"""The other engine, atheris, which sees the code that an input reaches (pip install atheris)."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import tempfile
from pathlib import Path

from tests.fuzz.target import load


def fuzz_by_coverage(name: str, inputs: int, seconds: float) -> int:
    """Run libFuzzer; returns its exit code. libFuzzer ends its process, so it gets one of its
    own. Inputs that break the target are saved in the current folder as crash-…
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_fuzz, args=(name, inputs, int(seconds))
    )
    process.start()
    process.join()
    return 1 if process.exitcode else 0


def _fuzz(name: str, inputs: int, seconds: int) -> None:
    import atheris

    logging.disable()
    with atheris.instrument_imports(include=["wsraw", "websockets"]):
        target = load(name)
    with tempfile.TemporaryDirectory() as folder:
        for i, seed in enumerate(target.seeds):
            (Path(folder) / str(i)).write_bytes(seed)
        limits = [f"-runs={inputs}"] if inputs else [f"-max_total_time={seconds}"]
        limits += [f"-max_len={target.largest}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *limits, folder], lambda data: target.run(data) and None)
        atheris.Fuzz()
