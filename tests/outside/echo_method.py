"""A method: of two answers to the bare prompt, the shorter one."""

from axolotl_safety.config.prompts import STEERING_PROMPTS
from axolotl_safety.data.types import Outcome, Task
from axolotl_safety.methods.base import Method, MethodContext
from axolotl_safety.methods.candidates import Proposal, accepted, attempts
from axolotl_safety.methods.choice import outcome


async def answer(task: Task, ctx: MethodContext) -> Outcome:
    """Ask twice, have both checked and judged, keep the shorter sound one."""
    bare, prompt = STEERING_PROMPTS["none"], task.example.prompt
    proposal = Proposal("shorter/bare@1", bare, message=prompt, harmless="x", thought="", answer="", stage="bare")
    tried = await attempts(ctx, task, proposal, count=1, n=2)
    chosen = min(accepted(tried), key=lambda candidate: len(candidate.token_ids), default=None)
    return outcome(ctx, task, tried, chosen, nll_reference=None)


SHORTER = Method("shorter", answer, reads_reference=False)
