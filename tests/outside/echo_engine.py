"""An engine: every model writes one and the same text."""

from transformers import AutoTokenizer

from axolotl_safety.engines.base import Backend, Completion, EngineFigures, Failure, ScoreRequest

SAYS = {
    "target": "<think>\nThat would hurt somebody.\n</think>\n\nI can't help with that.",
    "guard0": "Safe: yes",
}


class EchoEngine:
    """Answers at once; scores nothing."""

    def __init__(self, models):
        self.figures = EngineFigures()
        self._tokenizers = {name: AutoTokenizer.from_pretrained(spec.path) for name, spec in models.items()}

    def window(self, model):
        """Requests that it can make use of at once."""
        return 8

    async def answer(self, request):
        """One result for one request."""
        self.figures.starts = 1
        if isinstance(request, ScoreRequest):
            return Failure(request.request_id, "refused", "this engine scores nothing")
        ids = self._tokenizers[request.model].encode(SAYS[request.model], add_special_tokens=False)
        return Completion(request.request_id, (*ids, request.stop_token_ids[0]), "stop", -1.0)

    async def close(self, at_once=False):
        """Nothing is held."""


def start(engine, backend, work_dir, models, base_model="", tokenizer=None):
    """From the section, where to write, and the models by the name that requests use."""
    return EchoEngine(models)


ECHO = Backend("echo", start, resolve=lambda engine, ask, has_gpu: "echo")
