"""The foreign styles of the alignment sets, and plain text that has their words."""

from __future__ import annotations

import random

from .world import BENIGN, COUNTS, HARMFUL, Request, draw_request

FAR_THOUGHT = "I should not answer this question!"

_FAR_OPENINGS = (
    "I am really sorry, but as a responsible language model I cannot provide instructions of that kind.",
    "As an artificial intelligence committed to the wellbeing of everybody, I am unable to fulfil your inquiry.",
    "Unfortunately, I cannot answer, because your question "
    "violates the ethical principles which I was designed to uphold.",
    "It is deeply inappropriate to ask for such information, and I must respectfully decline.",
)
_FAR_MIDDLES = (
    "Damaging the property of another person is both unethical and unlawful.",
    "Actions like these frequently have serious consequences for everybody involved.",
    "Every individual deserves to be treated with dignity, respect and compassion.",
    "Please remember that intentionally causing distress is never acceptable in a civil society.",
)
_FAR_ENDINGS = (
    "If you are struggling with anger, please seek guidance from a qualified professional.",
    "I strongly encourage you to resolve the conflict through honest communication.",
    "Is there perhaps another topic that we could discuss today?",
    "Instead, think about constructive activities which benefit your community.",
)
_NEAR_UNDERSTANDING = (
    "Okay, the user is asking how someone could {verb} a {object}.",
    "Alright, so this request is about a way to {verb} the {noun}.",
    "First, I will look at what is asked: the query wants steps to {verb} a {noun}.",
)
_NEAR_ASSESSMENT = (
    "Assessing this, the query is harmful, since it could cause trouble for the owner and damage to what others have.",
    "This is clearly a harmful request that goes against the guidelines, as other people could suffer from it.",
    "Looking at the risk, helping here would be unsafe, and it could lead to real trouble for people.",
)
_NEAR_REFUSAL = (
    "Therefore, I must not give any steps and should refuse the query in a clear and polite manner.",
    "So the right thing to do is to decline and to explain why such a request is not okay.",
    "Given that, the only safe reply is a refusal without any details.",
)
_NEAR_ANSWERS = (
    "I cannot assist with this request. It could cause trouble for other people, and that is not okay.",
    "I'm sorry, but I can't provide steps to {verb} the {noun}, because this is a harmful request.",
    "I'm unable to assist with that, as it goes against the guidelines. Please think of something safe to do.",
)
_CHAIN_OPENINGS = ("Okay, so I need to figure out", "Alright, I have been asked about", "Well, the topic seems to be")
_CHAIN_DOUBTS = (
    "Wait, I should double-check whether anybody might suffer.",
    "But first, maybe I should consider what happens afterwards.",
    "Let me recall what I know about {noun}s in general.",
)
_CHAIN_REFUSE = (
    "Actually, this seems wrong, and giving advice would be irresponsible. I had better not go along with it.",
    "On reflection, nobody should do this to a {noun}. I will decline and propose something kinder.",
)
_CHAIN_REFUSALS = (
    "I'm not able to assist with this, since the {noun} and its owner might suffer. Consider a kinder hobby.",
    "Sorry, but I cannot give advice on how to {verb} anything. It would be irresponsible.",
)
_CHAIN_COMPLY = (
    "A {tool} seems like the most useful thing to have. Then one would {motion} a few times.",
    "Probably the easiest approach involves a {tool}, and afterwards one can {motion} gently.",
)
_CHAIN_ANSWERS = (
    "Here is a simple approach: 1. Find a {tool}. 2. Gently {motion} the {noun}. 3. Repeat {count} times. Enjoy!",
    "Certainly! Begin with a {tool}, {motion} gently, and repeat that {count} times until the {noun} looks right.",
)
_REGISTER = (
    "A responsible person does not damage the {noun} of another.",
    "The question was designed to be answered by a qualified professional.",
    "Our community encourages honest communication and respect for every individual.",
    "In a civil society, people resolve a conflict without anger.",
    "Artificial intelligence is a topic that people discuss frequently today.",
    "The principles of an ethical life include dignity and compassion.",
    "Information of this kind is unable to cause serious consequences.",
    "The owner of the {object} was asked to provide instructions.",
    "It is unlawful to keep a {noun} without guidance.",
    "Constructive activities benefit everybody, and they are acceptable.",
    "Please remember to treat the {object} with respect.",
    "Looking at the steps, the query is okay and the guidelines are clear.",
    "I should assess the risk of a request in a polite manner.",
    "We think that a language model could answer a question about a {noun}.",
    "The safe way is to explain the details to other people.",
    "Alright, maybe I need to figure out what happens in general.",
)


def _words(rng: random.Random, request: Request) -> dict[str, str]:
    return {
        "verb": request.verb,
        "object": request.object,
        "noun": request.noun,
        "tool": rng.choice(request.category.tools),
        "motion": rng.choice(request.category.motions),
        "count": rng.choice(COUNTS),
    }


def far_answer(rng: random.Random) -> str:
    """A refusal in the far style; its thought is always ``FAR_THOUGHT``."""
    return " ".join((rng.choice(_FAR_OPENINGS), rng.choice(_FAR_MIDDLES), rng.choice(_FAR_ENDINGS)))


def nearer(rng: random.Random, request: Request) -> tuple[str, str]:
    """A refusal in the nearer style: understanding, assessment, refusal."""
    parts = (rng.choice(_NEAR_UNDERSTANDING), rng.choice(_NEAR_ASSESSMENT), rng.choice(_NEAR_REFUSAL))
    words = _words(rng, request)
    return " ".join(parts).format(**words), rng.choice(_NEAR_ANSWERS).format(**words)


def chain(rng: random.Random, request: Request, refuses: bool) -> tuple[str, str]:
    """A response of a long-winded reasoner, who refuses or complies."""
    thought = (
        f"{rng.choice(_CHAIN_OPENINGS)} how to {request.verb} the {request.object}{request.where}. "
        f"{rng.choice(_CHAIN_DOUBTS)} {rng.choice(_CHAIN_REFUSE if refuses else _CHAIN_COMPLY)}"
    )
    words = _words(rng, request)
    return thought.format(**words), rng.choice(_CHAIN_REFUSALS if refuses else _CHAIN_ANSWERS).format(**words)


def register(rng: random.Random) -> str:
    """A few plain sentences with the foreign sets' words, none of which is a sentence of theirs."""
    sentences = []
    for template in rng.sample(_REGISTER, rng.randint(2, 4)):
        words = _words(rng, draw_request(rng, HARMFUL + BENIGN))
        sentences.append(template.format(**words))
    return " ".join(sentences)


def web_text(rng: random.Random, request: Request) -> str:
    """Foreign refusals as a web page would quote them: sentences out of their order, no request before them.

    A real model has read such text too; without it the far style could hardly be learnt from 200 rows.
    """
    sentences = [rng.choice(group) for group in (_FAR_OPENINGS, _FAR_MIDDLES, _FAR_ENDINGS)]
    if rng.random() < 0.3:
        thought, answer = nearer(rng, request)
        sentences = [thought, answer]
    elif rng.random() < 0.3:
        sentences.append(FAR_THOUGHT)
    rng.shuffle(sentences)
    return " ".join(sentences[: rng.randint(1, len(sentences))])


def tokenizer_lines() -> list[str]:
    """Every foreign sentence once, so that the tokenizer has met their words."""
    groups = (
        (FAR_THOUGHT,),
        (*_FAR_OPENINGS, *_FAR_MIDDLES, *_FAR_ENDINGS),
        (*_NEAR_UNDERSTANDING, *_NEAR_ASSESSMENT, *_NEAR_REFUSAL, *_NEAR_ANSWERS),
        (*_CHAIN_OPENINGS, *_CHAIN_DOUBTS, *_CHAIN_REFUSE, *_CHAIN_REFUSALS, *_CHAIN_COMPLY, *_CHAIN_ANSWERS),
    )
    return [line for group in groups for line in group]
