"""Forward KL to the frozen starting model on benign tokens (ThinkSafe+KL, arXiv 2601.23143): loss and trainer."""

from .loss import CHUNK_BYTES, Head, forward_ce, forward_kl, forward_kl_top_k, top_k_logprobs

__all__ = ["CHUNK_BYTES", "Head", "forward_ce", "forward_kl", "forward_kl_top_k", "top_k_logprobs"]
