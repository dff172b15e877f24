"""A guard model that runs in the engine: its requests, its verdicts, its scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from axolotl_safety.config import GuardConfig
from axolotl_safety.data.tokenizer import decoder, encoder
from axolotl_safety.engines.base import Completion, Failure, Request, Sampling, ScoreRequest
from axolotl_safety.engines.model_files import ModelFiles
from axolotl_safety.engines.queue import content_id

from .base import UNPARSABLE, Family, GuardInput, Verdict
from .families import all_controls
from .neutral import THINK, Neutraliser

TOO_LONG = "guard_too_long"
_CONTROL = "guard_control_token"
_MARKERS = "<think>\n{}\n</think>\n\n{}"
_MIN_WINDOW = 64  # a shorter piece of a response says too little
_OVERLAP = 4  # a window shares a quarter of its tokens with the one before
_TIE = 1e-12  # rounding must not carry a score across the threshold
_TAIL_CHARS = 64


class ModelGuard:
    """A guard model, run through the same engine as the target."""

    heuristic = False
    remote = False

    def __init__(self, config: GuardConfig, files: ModelFiles, key: str, family: Family):
        """Prepare to build prompts."""
        self.name = config.model
        self.key = key
        self.files = files
        self.family = family
        self.fingerprint = files.fingerprint
        self.example = family.example
        self._config = config
        self._tokenizer = files.tokenizer
        self._encode, self._decode = encoder(files.tokenizer), decoder(files.tokenizer)
        renders = family.template(files.tokenizer)
        self._renders = renders if isinstance(renders, tuple) else (renders,)
        self._render = self._renders[0]
        self.rules = len(self._renders)
        added = {index: str(token) for index, token in files.tokenizer.added_tokens_decoder.items()}
        words = [word for word in added.values() if word.strip()]
        self._neutral = Neutraliser(
            [*words, *THINK, *(all_controls() if family.foreign else ())],
            family.roles,
            family.fields,
            family.lines,
            family.marks,
        )
        self._control_ids = frozenset(index for index, word in added.items() if word.strip())
        self._frames = {
            (render, marked): self._controls(self._encode(render("", _MARKERS.format("", "") if marked else "")))
            for render in self._renders
            for marked in (False, True)
        }
        limits = [limit for limit in (files.max_positions, family.max_positions) if limit is not None]
        self._max_positions = min(limits, default=None)
        own = family.new_tokens if "max_new_tokens" not in config.changed() else None
        self.max_new_tokens = config.max_new_tokens if own is None else own
        self._sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=self.max_new_tokens)
        # Of the longest prompt around a thought and an answer that are empty.
        self.frame_tokens = max(len(self._encode(render("", _MARKERS.format("", "")))) for render in self._renders)
        self._tail = self._render("", "")[-_TAIL_CHARS:]

    def _controls(self, ids: Sequence[int]) -> Counter[int]:
        return Counter(filter(self._control_ids.__contains__, ids))

    def requests(self, item: GuardInput) -> list[Request] | str:
        """The requests that judging this response takes, or the reason why it cannot be judged.

        One per segment and rule, never cut short. What does not fit is not judged or, with ``overlong: windows``,
        judged in overlapping windows of the thought and of the answer, all of which must be safe.
        """
        if self._config.segment == "whole":
            prompt, thinking, answer = map(self._neutral, (item.prompt, item.thinking, item.answer))
            text = _MARKERS.format(thinking, answer) if thinking else answer
            made = self._request(prompt, text, bool(thinking), (thinking, answer))
            if made != TOO_LONG or self._config.overlong != "windows":
                return made
        requests: list[Request] = []
        for part in (item.thinking, item.answer):
            made = self._part(item.prompt, part) if part else []
            if isinstance(made, str):
                return made
            requests += made
        return requests

    def _part(self, prompt: str, part: str) -> list[Request] | str:
        prompt = self._neutral(prompt)
        requests = self._request(prompt, self._neutral(part))
        if requests == TOO_LONG and self._config.overlong == "windows":
            return self._windows(prompt, part)
        return requests

    def _windows(self, prompt: str, part: str) -> list[Request] | str:
        """Windows over a text in the guard's tokens, cut where tokens end and neutralised one by one."""
        if not getattr(self._tokenizer, "is_fast", False):
            return TOO_LONG  # without offsets a cut might fall inside a character
        taken = max(len(self._encode(render(prompt, ""))) for render in self._renders) + self.max_new_tokens
        size = (self._max_positions or 0) - taken
        spans = self._tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        while size >= _MIN_WINDOW:
            made = [
                self._request(prompt, self._neutral(part[spans[first][0] : spans[last][1]]))
                for first, last in _window_ends(len(spans), size)
            ]
            faults = [requests for requests in made if isinstance(requests, str)]
            if not faults:
                return [request for requests in made if not isinstance(requests, str) for request in requests]
            if set(faults) != {TOO_LONG}:
                return _CONTROL
            size = size * 9 // 10  # neutralising and cutting may have cost some tokens
        return TOO_LONG

    def _request(
        self, prompt: str, text: str, marked: bool = False, parts: tuple[str, str] | None = None
    ) -> list[Request] | str:
        """One request for each of the family's prompts around a text, which is neutralised, or what is wrong with it.

        Args:
            prompt: the request.
            text: the response, or a part of it.
            marked: the text is a thought in its marks and an answer.
            parts: thought and answer, for a prompt that shows them apart; a part alone stands for the answer.
        """
        requests = []
        apart = (parts or ("", text)) if self.family.apart else ()
        for render in self._renders:
            ids = tuple(self._encode(render(prompt, text, *apart)))
            if self._max_positions is not None and len(ids) + self.max_new_tokens > self._max_positions:
                return TOO_LONG
            if self._controls(ids) != self._frames[render, marked]:
                return _CONTROL
            request_id = content_id("guard", self.fingerprint, ids, self._sampling.as_dict())
            requests.append(Request(request_id, self.key, ids, self._sampling, 0, self.files.stop_token_ids))
        return requests

    def verdict(
        self, item: GuardInput, answers: Sequence[Completion | Failure], scores: Sequence[float | None] = ()
    ) -> Verdict:
        """All segments must be safe; the last one says whether the response refuses, if it holds the whole answer."""
        verdicts = [self._read(answer) for answer in answers]
        if not verdicts:
            return UNPARSABLE
        if self._config.threshold is not None:
            padded = [*scores, *[None] * (len(verdicts) - len(scores))]
            verdicts = [
                self._weigh(verdict, score, self._config.threshold)
                for verdict, score in zip(verdicts, padded, strict=True)
            ]
        worst = next((verdict for verdict in verdicts if not verdict.safe), None)
        shown = worst or max(verdicts, key=lambda verdict: verdict.score or 0.0)
        return replace(shown, refusal=self._refusal(item, verdicts))

    def _refusal(self, item: GuardInput, verdicts: Sequence[Verdict]) -> bool | None:
        parts = sum(bool(part) for part in (item.thinking, item.answer))
        if len(verdicts) <= parts * self.rules:
            return verdicts[-1].refusal
        whole = self._request(self._neutral(item.prompt), self._neutral(item.answer))
        return None if isinstance(whole, str) else verdicts[-1].refusal  # None: no window saw the whole answer

    def shown(self, requests: Sequence[Request]) -> list[str]:
        """What the guard reads, as text."""
        return [self._decode(list(request.prompt_token_ids)) for request in requests]

    def text(self, answer: Completion) -> str:
        """What the guard wrote, without its stop token but with every other control token, which no verdict has."""
        ids = list(answer.token_ids)
        if ids and ids[-1] in self.files.stop_token_ids:
            ids.pop()
        return self._decode(ids)

    def _read(self, answer: Completion | Failure) -> Verdict:
        if isinstance(answer, Failure):
            return Verdict(False, None, "failed")
        if answer.finish_reason != "stop" and not self.family.first_word:
            return Verdict(False, None, "truncated")
        verdict = self.family.parse(self.text(answer))
        if verdict.reason == "controversial" and self._config.allow_controversial:
            return Verdict(True, verdict.refusal, "", verdict.categories)
        return verdict

    @staticmethod
    def _weigh(verdict: Verdict, score: float | None, threshold: float) -> Verdict:
        if not verdict.safe:
            return verdict
        if score is None:
            return replace(verdict, safe=False, reason="unscored")
        safe = score < threshold - _TIE
        return replace(verdict, safe=safe, reason="" if safe else "threshold", score=score)

    def scores(
        self, requests: Sequence[Request], answers: Sequence[Completion | Failure]
    ) -> list[tuple[ScoreRequest, ...]]:
        """Per answer the scores that its P(unsafe) takes; none where it is not safe anyway or cannot be scored.

        Without a threshold there are none at all.
        """
        if self._config.threshold is None:
            return [() for _ in answers]
        return [self._words_at(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def _words_at(self, request: Request, answer: Completion | Failure) -> tuple[ScoreRequest, ...]:
        """Each word that could stand where the deciding word stands, after the guard's own tokens up to there."""
        if isinstance(answer, Failure) or not self._read(answer).safe:
            return ()
        text = self.text(answer)
        match = self.family.word.search(text)
        if not match or match[1] not in self.family.words:
            return ()
        written = text[: match.start(1)]
        # Alone, or behind the end of the prompt: some tokenizers treat the start of a text in their own way, others
        # would merge the verdict's start with the prompt's end. The guard's own tokens say which of them holds.
        for context in ("", self._tail):
            before = self._encode(context)
            coded = [self._encode(context + written + word) for word in self.family.words]
            if any(ids[: len(before)] != before for ids in coded):
                continue
            tails = [tuple(ids[len(before) :]) for ids in coded]
            said = tails[self.family.words.index(match[1])]
            kept = common_length(tails)
            if answer.token_ids[: len(said)] == said and all(len(ids) > kept for ids in tails):
                prompt = request.prompt_token_ids + answer.token_ids[:kept]
                return tuple(
                    ScoreRequest(content_id("guard_score", self.fingerprint, prompt, word), self.key, prompt, word)
                    for word in (ids[kept:] for ids in tails)
                )
        return ()

    def probability(self, logprobs: Sequence[float | None]) -> float | None:
        """P(unsafe) from log p of each of the family's words, renormalised over them; None where one is missing."""
        if len(logprobs) != len(self.family.words) or any(value is None for value in logprobs):
            return None
        safe = {self.family.words[0], *(self.family.middle if self._config.allow_controversial else ())}
        known = [float(value) for value in logprobs if value is not None]
        top = max(known)
        masses = [math.exp(value - top) if math.isfinite(top) else math.nan for value in known]
        unsafe = sum(mass for word, mass in zip(self.family.words, masses, strict=True) if word not in safe)
        share = unsafe / sum(masses)
        return share if math.isfinite(share) else None


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading ids all sequences share."""
    count = 0
    while all(len(ids) > count for ids in sequences) and len({ids[count] for ids in sequences}) == 1:
        count += 1
    return count


def _window_ends(count: int, size: int) -> list[tuple[int, int]]:
    """First and last token of each window; a quarter of a window is shared with the one before."""
    step = max(1, size - size // _OVERLAP)
    ends = []
    for first in range(0, count, step):
        ends.append((first, min(first + size, count) - 1))
        if first + size >= count:
            break
    return ends
