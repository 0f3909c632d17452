"""Patterns of the parts of a sentence: values, and the words that state, deny, doubt or change a value."""

import re

from rewards.mathematics.text import DISPLAYED_FORMULA, INLINE_FORMULA

# A formula in `$...$`, `$$...$$`, `\(...\)` or `\[...\]`, of at most 600 characters.
FORMULA = re.compile(
    rf"{DISPLAYED_FORMULA}|{INLINE_FORMULA}"
    r"|\\\((?:[^\\\n]|\\[^()\n]){1,600}\\\)|\\\[(?:[^\\]|\\[^\[\]]){1,600}\\\]"
)
# A formula, or one character that can end a sentence.
SENTENCE_PART = re.compile(FORMULA.pattern + r"|\n|[.!](?=[\s*<]|$)", re.DOTALL)
# The end of a complete sentence. `5!.` is a factorial, and `5...` goes on.
SENTENCE_END = re.compile(r"(?<!!)(?<!\.\.)[.!][*_ ]*$")
# A number in prose: `-1,000.5`, `$5`, `3/4`, `50%`, `72 percent`.
NUMBER = re.compile(
    r"(?<![\w.])[-+]?[$€£]?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?%?)(?![\w/])"
    r"(?: (?:percent|per cent|squared|cubed|factorial)\b)?"
)
# A line that is only a number, perhaps with a unit: `42`, `$1,200.50`, `**15 eggs**`.
VALUE_LINE = re.compile(r"[-+]?[$€£]?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?%?(?: [A-Za-z]+)?")
# Three words in a row.
PROSE = re.compile(r"(?:(?<![\\A-Za-z])[A-Za-z]{2,}[ ,]+){3}")
LINKING_VERB = re.compile(r"(?<![A-Za-z])(?:is|are|equals|be)(?![A-Za-z])")
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
# Words of a question, doubt or choice: the sentence does not state one value.
DOUBT = re.compile(
    r"\?|\b(?:not|or|either|neither|nor|maybe|perhaps|possibly|if|unless|except|but|isn't|wrong)\b", re.I
)
# Words that make a value a bound or an estimate, as in "at least 5".
VAGUE = re.compile(
    r"\b(?:than|least|most|about|around|between|nearly|almost|roughly|over|under|above|below|up|by|from|to(?! [a-z])"
    r"|any|every)\b",
    re.I,
)
# Words of a last sentence that states no result, or only a part of it.
NO_RESULT = re.compile(
    r"\b(?:could|might|may be|should|suppose|assume|let|consider|say|step|next|first|another|no|false|incorrect|never"
    r"|half|twice|double|negative|minus|(?:more|fewer|less)(?= *[^ ]))\b|[<>:]",
    re.I,
)
# Where the clause begins that a marker or a value ends.
CLAUSE_START = re.compile(r"[,;:.!?\n]|\b(?:so|thus|hence|therefore|then|and)\b", re.I)
CLAUSE_LIMIT = 200
"""Characters before a marker or value that are searched for words that deny or change it."""
# Words of a clause that denies or doubts what it states. A reason, "since 3 does not divide 7", and a count, "the
# number of clips that aren't sold", deny something else.
DENIES = re.compile(
    r"^(?!\s*(?:since|because|as|when)\b|.*\b(?<!incorrect )(?:number of|who)\b).*(?:n['’]t\b"
    r"|\b(?:not(?! (?:hard|difficult))|cannot|never|nobody|neither|nor|whether|wrong|incorrect"
    r"|false(?:ly)?|unlikely|impossible|hardly|no (?:way|chance|means|reason)|(?<!no )(?<!out )doubt\w*)\b"
    r"|\b(?:could|might|may)(?= *$| (?:be|well)\b)|\bif(?: (?:it|that|this|the|my|our|final|correct))* *$)",
    re.I | re.DOTALL,
)
NUMERAL = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|[0-9.]+)"
# Words directly before a value, or before "answer is", that make it the value of something else.
CHANGES = re.compile(
    rf"\b(?:(?:none|some|many|few|part|third|quarter|{NUMERAL}|out) of|number (?:before|after)|negative|opposite"
    r"|inverse|reciprocal|complement"
    r"|square|cube|root|power|factorial|log|logarithm|multiple|percent|fraction|half|twice|double|triple|minus|plus|times"
    r"|without|except)(?: of)?(?: (?:the|this|that|these|those|an?|my|our|his|her|its|their|final|correct|right))* *$"
    rf"|^[^0-9]*\b(?!{NUMERAL})[a-z]{{2,}} (?:minus|plus|times|less) {NUMERAL}(?: (?:is|are|be|equals))? *$",
    re.I,
)
# The same before "answer is" alone: "the wrong answer is", "the number after the answer is".
OTHER_ANSWER = re.compile(
    r"\b(?:(?<!number of )(?:wrong|incorrect|mistaken|invalid|(?:im)?possible|tempting|approximate)"
    r"|(?:(?<!value )of|after|before|than)(?: (?:the|this|that|my|our|final|correct|right))+)[ *_]*$",
    re.I,
)
# Words between "is" and a value that say nothing about the value.
ADVERBS = re.compile(r"^(?:(?:therefore|thus|hence|then|exactly|simply|indeed|equal to|a total of),? )+", re.I)
# A last line that names its result: `So n = 15`, `= 25`, `Total downloads = 366`, `Total: 366`.
RESULT_LINE = re.compile(
    r"(?:(?:so|thus|hence|therefore|then),? (?P<name>[a-z](?:_\{?\w\}?)? ?= ?)|(?:[-=]>|[=⇒→∴]) ?"
    r"|(?P<label>[A-Z][a-z]{2,}(?: [a-z]{2,}){0,5} ?=|(?:[a-z]+ ){0,4}(?:total|result|sum)(?: [a-z]+){0,4}:)[ *_]*)"
    rf"(?P<value>{VALUE_LINE.pattern})",
    re.I,
)
# A sentence that names a choice: `So the correct choice is B`, `Option B is correct`.
CHOICE_SENTENCE = re.compile(
    r"(?:(?:so|thus|hence|therefore|then),? )?(?:"
    r"(?:the )?(?:(?:correct|right|best) )?(?:option|choice) is \(?([A-J])\)?"
    r"|(?:option|choice) \(?([A-J])\)? is (?:the )?(?:correct|right)(?: (?:one|option|choice))?)",
    re.I,
)
# The side of an equation before its result: `12 + 30`, `$24 + $5`, `840 pieces - 825 pieces`.
WORKING = re.compile(
    r"[0-9][^=]{0,60}?(?: ?[-+*/×÷·–−] ?| [xX] )\(?[$€£]?[0-9.][0-9.,)]*%?(?: ?[A-Za-z/]+(?: [A-Za-z/]+){0,3})? *$"
)
WORKING_LIMIT = 200
"""Characters before the last "=" of a sentence that are searched for its working."""
# Words of a sentence that does not stand by its equation.
DENIAL = re.compile(
    r"\?|\b(?:not|false|wrong|incorrect|isn't|neither|nor|maybe|perhaps|possibly|suppose|assume|guess)\b", re.I
)
# What may stand before and behind the only value of a sentence: words, and no mathematics that the value is a part of.
PLAIN_BEFORE = re.compile(r"(?:(?:[^\W\d]|[\s,;:'’\"“”()*_&.–—-])*[\s(*_“\"])?\\?")
PLAIN_BEHIND = re.compile(r"(?![^\s,;:)*_”\"])(?:[^\W\d]|[\s,;:'’\"“”()*_&.–—]|(?<=[^\W\d])[-/](?=[^\W\d]))*")
# A word directly behind a number, where it may be a unit.
UNIT_BEHIND = re.compile(r" (?:[A-Za-z]{3,}(?![\w'-])|[A-Za-z]{1,2}(?= *$))")
UNIT_LIMIT = 60
"""Characters behind the only value of a sentence that can be its unit."""
# A word directly behind a number that makes it another number, or takes it back.
OTHER_NUMBER = re.compile(
    r" (?:gross|score|grand|mil|pairs?|pi|halved|doubled|tripled|squared|cubed|negated|inverted|inverse|reciprocal"
    r"|conjugate|factorial|recurring|repeating|permille|ppm|basis points?|(?:in )?(?:binary|octal|hexadecimal|base)|mod"
    r"|modulo|off|unlikely|nope|tentatively|fails)\b",
    re.I,
)
# Words behind a value that make it a bound or an estimate. "12 years older than Ann" is exact.
BOUND = re.compile(r"\b(?:least|most|about|around|nearly|almost|roughly|approximately|I (?:think|guess|hope))\b", re.I)
