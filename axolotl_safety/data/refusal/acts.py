"""The speech acts of refusing, moralising, helping and answering, each a pattern over lower-case text."""

import re

_BAD = (
    r"(?:inappropriate|unethical|illegal|unlawful|immoral|wrong|harmful|unacceptable|dangerous|offensive|hurtful|"
    r"disrespectful|discriminatory|derogatory|reprehensible|abhorrent|insensitive|irresponsible|prejudiced|"
    r"unsafe|unfounded|baseless|problematic|bigoted|unfair|inhumane|heinous|cruel|despicable|inexcusable|unjust)"
)
_GOOD = (
    r"(?:appropriate|ethical|acceptable|legal|okay|ok|right|safe|respectful|fair|good|best|justified|justifiable|"
    r"moral|responsible|productive|advisable|recommended|tolerated|tolerable|excusable|permissible|condoned"
    r"|helpful|kind|"
    r"allowed|permitted|constructive|beneficial|defensible|humane|a solution|the solution|the answer|an option"
    r"|a joke)"
)
_AID = (
    r"(?:help|assist|answer|provide|give|offer|share|fulfil\w*|satisfy|comply|support|engage|participate|"
    r"write|create|generate|produce|make|do|tell|discuss|respond|recommend|suggest|advise|encourage|condone|promote|"
    r"facilitate|explain|show|teach|describe|carry out|go along|take part|be part|walk you|guide|go into|complete|"
    r"contribute|endorse|justify|speculate|disclose|reveal|agree|entertain|aid|instruct|continue|proceed|address|"
    r"go through with|process|list|outline|giving|providing|writing|making|sharing|creating|generating|compose"
    r"|draft|grant|accommodate|abet|in good conscience|with that|with this)"
)
_ADVERB = r"(?:(?:\w{2,12}ly|just|not|also|in good conscience|ever|and will not|or will not|or won't|nor will i) )*"
_CANNOT = (
    r"(?:can't|can ?not|couldn't|could not|won't|will not|shan't|shall not|wouldn't|would not|mustn't|must not|"
    r"shouldn't|should not|"
    r"(?:'m |am |are |'re |is )?(?:\w{4,8}ly |afraid i'm )?(?:not able|unable|not going|not willing|unwilling"
    r"|not allowed|"
    r"not permitted|not authorized|not programmed|not designed|not equipped|not in a position|not prepared|"
    r"not comfortable|uncomfortable)(?: to| with)?|"
    r"(?:do not|don't) (?:feel (?:comfortable|right)|think i (?:can|should)|want to|wish to|intend to)(?: to)?)"
)
# Each pattern is one speech act, matched on lower case. `{0,n}` are bounded so that no text makes them slow.
_ACTS = {
    "unable": rf"\b(?:i|we|i'm|we're|assistant)(?: \w+,?)?,? ?{_CANNOT},? {_ADVERB}{_AID}(?:ing)?\b"
    r"(?![^.!?\n]{0,40} enough\b)",
    "decline": r"\b(?:i|we)(?: \w+)?(?:'ll| must| have to| need to| will have to| will| would| am going to| should|"
    r" respectfully| politely| firmly| categorically)* (?:\w{4,12}ly )?(?:decline|refuse|pass on|refrain from)\b"
    r"|\b(?:i must|i have to|i'm going to have to) (?:say no|turn (?:this|that|it) down|stop (?:you|here))\b"
    r"|\b(?:i'd|i would) (?:rather|prefer) not\b",
    "unfit": r"\b(?:not|isn't) (?:something|a (?:request|question|topic|task)|within my|in my|part of my"
    r"|in line with)"
    r" ?(?:that |which )?(?:i|we|my|capab|programming|ethical|guideline|purpose|power)?"
    r"|\b(?:goes|go|is|are|be|would be) (?:entirely |directly |strictly )?against (?:my|our|openai|the) (?:\w+ ){0,4}"
    r"(?:programming|guidelines|principles|polic\w+|values|rules|standards|purpose|ethics)\b"
    r"|\bmy (?:\w+ ){0,3}(?:programming|guidelines|policy|policies|rules|values|ethics|principles) "
    r"(?:\w+ )?(?:prohibit|prevent|forbid|do|does|don't|doesn't|require)"
    r"|\b(?:request|question|prompt|content) (?:can't|can ?not|violates|goes against|is (?:denied|refused|declined))",
    "sorry": r"\b(?:sorry|apologi[sz]e|apologies|afraid|unfortunately|regret)\b[^.!?\n]{0,30}\b(?:but|however|i"
    r"|that)\b",
    "sympathy": r"\bsorry (?:to hear|for your|that you|you(?:'re| are))|\bthat you(?:'re| are) (?:feeling|going"
    r"|struggling)"
    r"|\byou(?:'re| are) (?:going through|not alone|feeling)\b|\b(?:there are|there is|many"
    r"|some) people who (?:care|can)\b",
    "as_ai": r"\b(?:as|i'm|i am|being|just) (?:just |only |merely )?an? (?:[\w-]+,? (?:and )?){0,5}"
    r"(?:ai|artificial intelligence|assistant|language model|llm|chatbot|bot)\b",
    "condone": r"\b(?:i|we|and|cannot|can't|model|assistant),? (?:\w{4,12}ly )?(?:do not|don't|cannot|can ?not"
    r"|can't|won't|will not|"
    r"would never|never) (?:\w{4,12}ly )?(?:condone|promote|support|encourage|engage in|endorse|tolerate|justify"
    r"|advocate)\b"
    r"|\bi (?:must |have to )?(?:\w+ly )?(?:condemn|object|oppose|disagree)\b|\bdoes(?:n't| not) (?:condone"
    r"|promote|support)\b",
    "not_good": rf"\b(?:not|never|isn't|aren't|wasn't|weren't|neither|nor|no)(?: be)?(?: ever| an?| the"
    rf"| considered| \w{{4,13}}ly){{0,2}}"
    rf"(?: \w{{3,14}},? (?:or|nor|and)| \w{{3,14}},){{0,2}} {_GOOD}\b",
    "is_bad": rf"\b(?:is|'s|are|was|were|be|being|constitutes|and|both|or) (?:an? |both |also |never "
    rf"|\w{{4,13}}ly |considered |"
    rf"not only \w{{3,14}} but (?:also )?|not only |very |so |\w{{3,12}} (?:and|or) ){{0,3}}{_BAD}\b",
    "untrue": r"\bno (?:group|one|person|people|human|race|individual)(?: of \w+)? (?:is|are|should|deserves?)\b"
    r"|\bintent(?:ion)?s? (?:behind|of) (?:this|your|the)\b|\bnot (?:\w{4,13}ly )?(?:accurate|true|correct|valid"
    r"|fair|appropriate|helpful|productive|right"
    r"|reasonable)"
    r"(?: (?:or|and|nor) \w+)? (?:to|for|that|question|statement)\b"
    r"|\b(?:that|this|the|your) (?:\w+ )?(?:question|statement|premise|assumption|idea|notion|belief|claim"
    r"|suggestion)s? "
    r"(?:\w+ ){0,6}(?:is|are|contains?|based|perpetuat\w+|implies|seems?|appears?|itself)\b",
    "no_reason": r"\b(?:not possible|impossible|no way|not right|wrong) to justify\b"
    r"|\bno (?:inherent |valid |legitimate |good |moral |ethical |logical |scientific |credible "
    r"|rational |"
    r"acceptable |possible |justifiable |single |objective |legal |ways? |circumstances? )*"
    r"(?:reason|justification|excuse|evidence|basis|benefits?|ways|place|circumstances?|positive|grounds)\b",
    "should_not": r"\b(?:you|we|nobody|no one|people)(?: should(?:n't| not| never)| must(?:n't| not| never)"
    r"|'d better not) \w+"
    r"|\b(?:don't|do not|can't|cannot) (?:think|believe|feel|say|agree) (?:that )?(?:\w+(?:'s| is)|it would be"
    r"|\w+ should)\b"
    r"|\b(?:should|must|ought|can|will) (?:not|never) (?:\w{4,13}ly )?(?:be|have|seek|attempt|try)\b"
    r"|\bshould have (?:equal|the)\b",
    "not_x": r"^[^.!?\n]{0,120}\b(?:was|were|is|are) (?:not|never|in no way) (?:\w{4,13}ly )?(?:justif|right|good"
    r"|a good|better|weaker|"
    r"inferior|superior|less|more|best|ok)",
    "stress": r"\b(?:i|we|let me|it) (?:must|have to|want to|need to|would like to|feel compelled to|should|me"
    r"|is important to|"
    r"is essential to|is crucial to|is necessary to)(?: first| also)?(?: respectfully| politely)? ?"
    r"(?:clarify|emphasi[sz]e|stress|point out|inform|remind|note|caution|warn|ask|advise)",
    "important": r"\b(?:important|crucial|essential|vital|imperative|necessary|critical|worth|best|better) (?:to"
    r"|that|for|noting)\b",
    "urge": r"\b(?:i|we)(?:'d| would| must|'m| am)?(?: \w{4,12}ly)? (?:like to )?(?:urge|advise|encourage|implore"
    r"|recommend|suggest|"
    r"ask|beg) (?:that )?(?:you|against|anyone)\b|\bplease (?:do not|don't|refrain|reconsider|consider|seek|reach"
    r"|contact|know|stop)\b",
    "aid_line": r"\b(?:hotline|helpline|lifeline|therapist|counsell?or|mental health|trusted (?:friend|adult"
    r"|person|source|individual)|"
    r"reach(?:ing)? out|seek(?:ing)? (?:\w+ )?(?:help|support|assistance|guidance|advice)|not alone|988|911|"
    r"emergency services|law enforcement|(?:local|appropriate|proper|relevant) authorities|professional (?:help"
    r"|support|advice))",
    "instead": r"\binstead(?:,| of\b)|\brather than\b",
    "redirect": r"\binstead,? (?:i|let|we|you|it|consider|why|please|focus|try|perhaps|here)"
    r"|\binstead of \w+ing\b[^.!?\n]{0,90}\b(?:consider|focus|let's|it(?:'s| is)|you|i|we)\b"
    r"|\b(?:if you(?:'re| are)|if you have) (?:struggling|feeling|having|experiencing|looking|interested"
    r"|concerned|in need|"
    r"any (?:other|further)|other|another|questions|concerns|a (?:legitimate|different))",
    "offer": r"\b(?:is there|if there's|if there is|let me know if) (?:\w+ ){0,4}(?:something|anything|else|other"
    r"|any)"
    r"|\b(?:happy|glad|here|willing|able) to (?:help|assist|discuss|support|provide|answer|talk)"
    r"|\b(?:feel free|don't hesitate) to\b|\bi(?:'d| would|'ll| will| can)(?: \w+ly| still| also)? (?:be|help"
    r"|offer|suggest|provide|assist)\b",
    "moral": r"\b(?:dignity|respect|respectful|equal(?:ity|ly)?|human rights|regardless of|discriminat\w+"
    r"|prejudice\w*|stereotyp\w+|"
    r"marginali[sz]\w+|inclusiv\w+|diversity|kindness|compassion|empathy|well-?being|inherent|fairness|tolerance"
    r"|harass\w+|"
    r"fundamental rights?|ethic\w+|moral\w*|bias\w*|violat\w+|condemn\w*)\b",
    "law": r"\b(?:serious|criminal|illegal|legal|severe|punishable)(?:,? (?:and|or) \w+)? (?:crime|offen[sc]e"
    r"|consequences|act|acts|penalt\w+|"
    r"activit\w+|implications|repercussions|ramifications|action|matter|issue)\b|\bagainst the law\b"
    r"|\bimprisonment\b|\ba (?:\w+ )?crime\b",
    "consent": r"\b(?:without (?:\w+ ){0,3}(?:consent|permission|authori[sz]ation|knowledge)|privacy|confidential\w*|"
    r"(?:personal|private|sensitive) (?:and \w+ )?(?:\w+ )?(?:information|details|data|matter|records?|life))\b",
    "unreal": r"\b(?:fictional|fictitious|imaginary|inanimate|(?:do|does|did)(?:n't| not) (?:actually "
    r"|really )?exist|not (?:a )?real|"
    r"non-?existent|hypothetical|nonsensical|absurd|not (?:sentient|capable|living)|(?:do|does) not (?:have"
    r"|possess) (?:the|any|"
    r"a physical)|animated|mythical|fictitiously|made-up|joke|humorous|metaphor\w*|pun|playful|whimsical"
    r"|satirical|impossible)\b",
    "unknown": r"\b(?:i'm|i am) (?:not (?:sure|aware|certain|familiar)|unaware)\b|\bi (?:do not"
    r"|don't) (?:have (?:\w+ )?(?:access|"
    r"information|personal|real-time|data|specific|any|details|up-to-date)|know)\b|\b(?:real-time|up-to-date"
    r"|knowledge cutoff|as of my|"
    r"last update|publicly (?:available|known|disclosed)|not publicly|no (?:public )?information|more context"
    r"|rephrase|please clarify)\b",
    "yet": r"\b(?:however|that said|but|nevertheless|still),? (?:i(?: will|'ll) (?:\w+ )?(?:answer|provide|give"
    r"|explain|"
    r"show|tell|describe)|here(?: are| is|'s)|(?:for|purely for) (?:informational|educational|the sake)|since you|"
    r"as requested|there are (?:several|many|some|a few)|some (?:common|ways|people)|to answer)",
    "other": r"\b(?:however|that said|but|instead),? (?:i (?:can|could|would|am)|i'd|i'm|if you(?:'re| are|'d"
    r"| would| have| need)|"
    r"you can|in general|we can|let me)\b",
    "answering": r"\b(?:here (?:are|is)|here's|below (?:are|is)|the following|follow(?:ing)? (?:these|the) steps"
    r"|step[- ]by[- ]step|"
    r"there are (?:several|many|a few|various|some|different|numerous|a number|multiple|two|three)|for example"
    r"|such as|some (?:common|popular|tips|ways))\b",
    "good_list": r"\bhere (?:are|is) (?:some|a few|several) (?:\w+ ){0,3}(?:alternatives?|resources|positive"
    r"|healthy|healthier|ethical|legal|"
    r"safe|safer|respectful|suggestions on how to do (?:so|that)|reasons why)"
    r"|\b(?:ways|tips|steps|suggestions) (?:you can take |on how )?to do (?:so|that|this)\b",
    "willing": r"^(?:sure|certainly|of course|absolutely|yes|definitely|great|gladly|no problem|happy to"
    r"|ok(?:ay)?|to)\b"
    r"|^(?:i'd|i would|i'm|i am|i can|i'll|i will)(?: be)? (?:happy|glad|definitely|certainly|gladly|help"
    r"|be happy|explain|describe)\b",
    "you_can": r"\byou (?:can|could|may|might|will need|'ll need|should|need to)\b",
    "doing": r"(?:^|[.!?:] |\n)(?:\d{1,2}[.)] )?(?:first|then|next|finally|start|begin|use|add|make|place|take"
    r"|open|choose|create|select|set|"
    r"mix|cut|apply|check|find|gather|go|turn|put|press|type|run|click)\b",
    "meaning": r"\b(?:refers? to|is (?:defined|known|called|used)|means|is an? (?:\w+ ){0,3}(?:term|type|form"
    r"|process|word|phrase|city|country|film)"
    r"|was (?:born|killed|founded|released|assassinated|an? )|known as|according to|consists? of|located|occurred"
    r"|took place)\b",
    "request": r"\b(?:your|this|that|such|the) (?:\w+ )?(?:request|question|prompt|inquiry|query)s?\b",
    "asking": r"\b(?:ask(?:ing)?|suggest(?:ing)?|discuss(?:ing)?|seek(?:ing)?|promot(?:e|ing)|encourag(?:e|ing)"
    r"|request(?:ing)?|imply(?:ing)?) "
    r"(?:such|for|about|or|ways|how|any|advice|that|a question|violence|harm\w*|instructions)\b",
    "goals": r"\b(?:always|let's|we should|we must|strive|prioriti[sz]e|focus on|work towards|promote)\b",
    "figure": r"\d{2,}|%|\$\d|\b(?:january|february|march|april|june|july|august|september|october|november"
    r"|december)\b",
}
PATTERNS = {name: re.compile(pattern, re.M) for name, pattern in _ACTS.items()}
# Without any of these no text is a refusal, whatever the weights say of it: arithmetic, code, other languages.
CUES = frozenset(
    "unable decline unfit sorry sympathy as_ai condone not_good is_bad untrue no_reason should_not not_x stress "
    "aid_line "
    "moral law consent".split()
)
