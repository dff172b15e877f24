"""How well the data stage fills an engine: the makespan of a whole stage, in steps of a scripted engine.

    python benchmarks/schedule.py --json -

The engine has S slots and takes one step per token; nothing is computed, time is counted. 1,000 rows for DGR, of whose
candidates every fifth is rejected (up to three retries), and 1,000 benign rows go through the real stage: its rows,
queue, journal, checks and hand-off. A completion takes a lognormal number of steps (sigma 1, the mean as named, cut off
where named), which depends on its request alone and which the stage does not know. Scores take no step.

* ``makespan``: steps until the last row is done.
* ``bound``: no schedule is shorter: the larger of all steps / S and the longest row's chain of attempts.
* ``by_phases``: the same completions phase by phase, as up to version 0.1: all first attempts, then all second
  ones, and so on, then the benign rows; each phase waits for its last one.

The last line is JSON: ``{"cases": [{"sequences", "mean", "makespan", "bound", "by_phases"}, ...]}``.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import logging
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axolotl.utils.dict import DictDefault
from transformers import AutoTokenizer

from axolotl_safety.config.validate import prepare_config
from axolotl_safety.engines.base import Completion, EngineFigures, Request, Result, Score, ScoreRequest
from axolotl_safety.pipeline.stage import run_stage

MODEL = Path(__file__).resolve().parents[1] / "examples" / "lab" / "model"
CASES = tuple((sequences, mean, cut) for sequences in (32, 128) for mean, cut in ((600, 3072), (2000, 16_384)))
SIGMA = 1.0
RETRIES = 3
REJECTED = 0.2
_QUIET_TURNS = 25  # turns of the event loop without a new request: then everybody waits for the engine


@dataclass(frozen=True)
class Length:
    """Steps of a completion, a function of its request alone."""

    mean: float
    cut: int

    def __call__(self, request_id: str) -> int:
        dice = random.Random(request_id)
        drawn = dice.lognormvariate(0, SIGMA) * self.mean / 2.718281828 ** (SIGMA**2 / 2)
        return max(1, min(self.cut, round(drawn)))


@dataclass
class Slots:
    """An engine that counts time: a request that is let in ends after its length, and no more than S are let in.

    Attributes:
        now: steps so far.
        made: by row, the steps of its completions in the order of asking.
    """

    slots: int
    length: Length
    say: Any
    figures: EngineFigures = field(default_factory=lambda: EngineFigures(starts=1))
    now: int = 0
    made: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    _running: list[tuple[int, int, asyncio.Future[None]]] = field(default_factory=list)
    _asked: int = 0
    _clock: asyncio.Task[None] | None = None

    def window(self, model: str) -> int:
        """As many as there are slots."""
        return self.slots

    async def answer(self, request: Request | ScoreRequest) -> Result:
        """A completion when its time has come, a score at once."""
        if isinstance(request, ScoreRequest):
            return Score(request.request_id, -1.0, len(request.response_token_ids))
        assert len(self._running) < self.slots
        self._asked += 1
        steps = self.length(request.request_id)
        self.made[request.turn].append(steps)
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._running, (self.now + steps, self._asked, future))
        if self._clock is None or self._clock.done():
            self._clock = asyncio.create_task(self._run())
        await future
        return Completion(request.request_id, self.say(request), "stop", -1.0)

    async def _run(self) -> None:
        while self._running:
            seen, quiet = self._asked, 0
            while quiet < _QUIET_TURNS:
                await asyncio.sleep(0)
                quiet = quiet + 1 if seen == self._asked else 0
                seen = self._asked
            self.now, _, future = heapq.heappop(self._running)
            future.set_result(None)

    async def close(self, at_once: bool = False) -> None:
        """Nothing is held."""


def makespan(lengths: Iterable[int], slots: int) -> int:
    """Steps until the last of these is done, taken in this order by whichever slot is free."""
    free = [0] * slots
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def by_phases(chains: list[list[int]], single: list[int], slots: int) -> int:
    """Attempt by attempt over all rows, then the rows that are asked once."""
    attempts = [[chain[number] for chain in chains if len(chain) > number] for number in range(1 + RETRIES)]
    return sum(makespan(phase, slots) for phase in [*attempts, single])


def write_rows(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Harmless rows in two files, and their dataset entries."""
    refused = "I'm sorry, but I cannot assist with that request, as it would be wrong to jinx anything."
    harmful = [{"prompt": f"How do I jinx lamp {n}?", "response": f"<think>No.</think>{refused}"} for n in range(rows)]
    benign = [{"prompt": f"How do I polish lamp {n}?"} for n in range(rows)]
    entries = []
    for name, method, found, label in (("h", "dgr", harmful, "harmful"), ("b", "thinksafe", benign, "benign")):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        options = {"label": label, "prompt_field": "prompt"}
        options |= {"response_field": "response"} if method == "dgr" else {}
        entries.append({"path": str(path), "type": f"axolotl_safety.{method}", "safety": options})
    return entries


def sayer(tokenizer: Any) -> Any:
    """What a completion says: a refusal to harm but for every fifth, help with polishing."""

    def ids(text: str) -> tuple[int, ...]:
        return (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)

    def say(request: Request) -> tuple[int, ...]:
        rewriting = "jinx" in tokenizer.decode(request.prompt_token_ids)
        refuses = rewriting and random.Random(request.request_id + " refuses").random() >= REJECTED
        mark = random.Random(request.request_id).randrange(10**6)
        answer = f"I can't help with that, {mark}." if refuses else f"Take a soft cloth and rub it, {mark}."
        return ids(f"<think>\nThey ask for something, {mark}.\n</think>\n\n{answer}")

    return say


def measure(sequences: int, mean: int, cut: int, rows: int) -> dict[str, Any]:
    """One case."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        raw = {
            "base_model": str(MODEL),
            "sequence_len": 512,
            "datasets": write_rows(folder, rows),
            "safety": {
                "work_dir": str(folder / "work"),
                "engine": {"backend": "transformers"},
                "guard": {"model": "builtin"},
                "sampling": {"max_new_tokens": 160},
                "dgr": {"retries": RETRIES},
                "thinksafe": {"attempts": 1},
            },
        }
        cfg = DictDefault(raw)
        prepare_config(cfg)
        engine = Slots(sequences, Length(mean, cut), sayer(AutoTokenizer.from_pretrained(MODEL)))
        run_stage(DictDefault(cfg.to_dict()), make_engine=lambda *_: engine)
    chains = [engine.made[turn] for turn in sorted(engine.made)]
    asked_again, once = chains[:rows], chains[rows:]
    assert len(once) == rows and all(len(chain) == 1 for chain in once)
    steps = sum(map(sum, chains))
    bound = max(-(-steps // sequences), max(map(sum, chains)))
    phased = by_phases(asked_again, [chain[0] for chain in once], sequences)
    case = {"sequences": sequences, "mean": mean, "makespan": engine.now, "bound": bound, "by_phases": phased}
    print(
        f"{sequences:4} sequences, mean {mean:5}: makespan {engine.now:8,} = {engine.now / bound:.3f} x bound, "
        f"{engine.now / phased:.3f} x phase by phase"
    )
    return case


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="for DGR, and as many benign ones")
    parser.add_argument("--json", default="-", help="where the last line goes; - is standard output")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    line = json.dumps({"cases": [measure(*case, options.rows) for case in CASES]})
    if options.json == "-":
        print(line)
    else:
        Path(options.json).write_text(line + "\n")


if __name__ == "__main__":
    main()
