"""Development prompts of ``safety.stop`` that also stand in a set of ``safety.eval``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from axolotl_safety.config.evaluation import AXES
from axolotl_safety.config.section import section
from axolotl_safety.data.development import DevelopmentPrompt
from axolotl_safety.util.errors import ConfigError, DataError

from .items import asked_texts, read_rows
from .overlap import overlaps
from .sets import resolve, with_tasks

LOG = logging.getLogger(__name__)


def met_by_evaluation(cfg: Any, prompts: Sequence[DevelopmentPrompt]) -> dict[str, str]:
    """By key, the set that a prompt stands in, exactly or in 13 words in a row.

    A set that cannot be read is said and not compared: the evaluation itself will say what is wrong with it.
    """
    safety = section(cfg)
    if safety.eval is None:
        return {}
    settings, found = with_tasks(safety.eval), {}
    texts = {one.key: one.prompt for one in prompts}
    for axis in AXES:
        for block in getattr(settings, axis):
            if block.lm_eval:
                continue
            try:
                spec = resolve(block, axis)
                asked = asked_texts(spec, read_rows(spec, cfg.hf_use_auth_token, safety.seed))
            except (ConfigError, DataError) as error:
                LOG.warning("safety.stop: development prompts are not compared with a set of safety.eval: %s", error)
                continue
            found |= dict.fromkeys(overlaps(asked, texts), spec.name)
    return found
