"""One fault of vLLM on a CPU, and the way around it."""

from __future__ import annotations

import torch


class RewindingGenerator(torch.Generator):
    """A CPU generator that can be told to take a draw back.

    While a prompt is prefilled in pieces, vLLM draws a token after each piece, throws it away and takes the draw back
    by moving the generator's offset, which exists on a GPU alone: "CPU Generator does not use offset", and the engine
    is dead (0.20 to 0.32, ``GPUModelRunner._bookkeeping_sync``). The thrown-away draws come before the first real one,
    so starting over from the seed takes them back exactly. The one exception is a row that was preempted for lack of
    cache and is prefilled again: its next draw uses the numbers of its first.
    """

    def get_offset(self) -> int:
        """Where the next draw starts, as far as a CPU knows."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Starts over."""
        self.manual_seed(self.initial_seed())


def let_seeds_survive_chunks() -> None:
    """Gives vLLM's requests generators that can start over. For the process that runs the model; CPU only."""
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    finish = CachedRequestState.__post_init__

    def finish_with_own_generator(state: CachedRequestState) -> None:
        finish(state)
        if state.generator is not None:
            seed = state.generator.initial_seed()
            state.generator = RewindingGenerator(device="cpu")
            state.generator.manual_seed(seed)

    CachedRequestState.__post_init__ = finish_with_own_generator
