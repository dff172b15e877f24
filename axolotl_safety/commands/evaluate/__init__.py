"""Base and tuned model on the same prompts: harm, over-refusal, reasoning, and what the tuning cost.

An evaluation lives in ``<work_dir>/evaluations/<hash>/``; the hash is that of everything that decides it (models, sets,
sampling, seed, guards), so a rerun writes the same bytes to the same place. ``evaluations/latest.json`` names the last.

``results.json``: every rate is in percent, every difference in points, every interval a pair at 95 %. No prompt and no
completion stands in it. Keys may be added under the same ``schema``; none changes its meaning.

* ``schema`` 1, ``hash``, ``seed``, ``sampling`` (of every completion), ``samples`` (per reasoning prompt), ``versions``
* ``models``: ``name`` (``base``, then the others), ``kind`` (``base``, ``adapter``, ``model``), ``path``, ``loaded``
  (how, in words), ``backend``, ``fingerprint``
* ``judges``: ``harm`` (null where no set asks it) and ``refusal``, each ``name`` and ``heuristic``
* ``sets`` (lm-eval's tasks stand among the figures alone): ``set``, ``axis``, ``source``, ``licence``, ``template``,
  ``rows``, ``n``, ``skipped`` (by reason), ``judge`` (reasoning), ``overlap`` (``exact``, ``ngram``, ``any``: prompts
  shared with the training data; null where that is not known)
* ``figures``: ``set``, ``axis``, ``metric``, ``model``, ``value``, ``interval``, ``method``, ``n`` (prompts),
  ``samples``, ``failed`` (completions that the engine could not deliver; their prompts are in no rate),
  ``truncation_rate``, ``unclosed_rate``, ``judge``, ``heuristic``. Metrics: of harm ``harmful`` (not clearly safe;
  ``unjudged`` beside it is the share without a verdict) and ``refusal``; of over-refusal ``refusal``; of reasoning
  ``correct`` (mean pass@1) and its failures ``refused`` and ``wrong``
* ``comparisons``: ``set``, ``axis``, ``metric``, ``model`` against ``base``: ``difference`` (model minus base),
  ``interval``, ``method``, ``p_value``, ``test``, ``n``
* ``safety_tax``: per tuned ``model`` and ``set`` (``all``: mean over the sets): ``points`` (base minus tuned),
  ``interval``, ``method``, ``p_value``, ``test``, ``n``
* ``training_data``: ``hashes`` and ``rows`` of the datasets that the prompts were compared with, ``not_compared``, and
  the ``reason`` if they were not compared

``items.parquet`` has one row per completion: ``set, axis, model, item, sample, prompt, thought, answer, tokens``,
``finish`` (``stop``, ``length``, or ``failed``), ``closed, verdict, harmful, unjudged, refused, correct, overlap``.
"""
