"""The scorer against an adversarial table, and against lm-eval's own filters and metric."""

from __future__ import annotations

import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from wrong_answers import wrong_answers

from rim_bench.data import answers
from rim_bench.data.answers import canonical, extract, lm_eval_flexible, lm_eval_strict, parse_number, score

NUMBERS = [
    ("18", 18),
    ("18.", 18),
    ("18.0", 18),
    ("18.00", 18),
    (" 18 ", 18),
    ("+18", 18),
    ("-3", -3),
    ("- 3", -3),
    ("\u22123", -3),
    ("\u20133", -3),
    ("-0", 0),
    ("007", 7),
    ("1,234", 1234),
    ("12,345,678.50", Fraction("12345678.5")),
    ("109,200,000", 109200000),
    ("$29.00", 29),
    ("\\$5", 5),
    ("-$5", -5),
    ("$-5", -5),
    ("$ 5", 5),
    ("€7.50", Fraction("7.5")),
    ("5$", 5),
    ("50%", 50),
    ("50 %", 50),
    ("1e3", 1000),
    ("1E+3", 1000),
    ("2.5e-1", Fraction(1, 4)),
    (".5", Fraction(1, 2)),
    ("-.5", Fraction(-1, 2)),
    ("5.", 5),
    ("3 apples", 3),
    ("3 apples.", 3),
    ("20 mph", 20),
    ("5m", 5),
    ("18 (eighteen)", 18),
    ("18!", 18),
    ("1/2", Fraction(1, 2)),
    ("-1/3", Fraction(-1, 3)),
    ("3/4 cup", Fraction(3, 4)),
    ("**72**", 72),
    ("72,", 72),
    ("1e400", Fraction(10) ** 400),
    ("12345678901234567890123", 12345678901234567890123),
    ("0.1", Fraction(1, 10)),
    ("72\\", 72),
    ("1,000.", 1000),
    ("18°C", 18),
    ("9{,}500", 9500),
    ("\\$9{,}500", 9500),
    ("9,\\!500", 9500),
    ("9\\,500", 9500),
    ("\\boxed{18}", 18),
    ("\\boxed{\\text{\\$9{,}500}}", 9500),
    ("$\\boxed{18\\text{ apples}}$.", 18),
    ("\\(18\\)", 18),
    ("\\[ 18 \\]", 18),
    ("$$18$$", 18),
    ("\\frac{1}{2}", Fraction(1, 2)),
    ("-\\dfrac{1}{2}", Fraction(-1, 2)),
    ("\\frac12", Fraction(1, 2)),
    ("1\\frac{1}{2}", Fraction(3, 2)),
    ("50\\%", 50),
    ("1\u00a0234", 1234),
    ("1\u202f234\u2009567.5", Fraction("1234567.5")),
    ("US$18", 18),
    ("-US$18", -18),
    ("Rs. 18", 18),
    ("₽18", 18),
    ("18¢", 18),
    ("EUR 18", 18),
    ("(5)", 5),
    ("(1234)", 1234),
    ("[18]", 18),
    ('"18"', 18),
    ("“18”", 18),
    ("`18`", 18),
    ("*1234*", 1234),
    ("__18__", 18),
    ("**5** apples", 5),
    ("**Answer: 18**", 18),
    ("**(5)**.", 5),
    ("18\u200b", 18),
    ("\u200b18", 18),
    ("1 / 2", Fraction(1, 2)),
    ("1\u20442", Fraction(1, 2)),
    ("1 1/2", Fraction(3, 2)),
    ("-1 1/2 cups", Fraction(-3, 2)),
    ("-(1/3)", Fraction(-1, 3)),
    ("(-5)", -5),
    ("The answer is 1234", 1234),
    ("So the final answer is: **1234**.", 1234),
    ("x = 1234", 1234),
    ("$5/hour", 5),
    ("1\u00a0000/hour", 1000),
    ("5 cm²", 5),
    ("5m³", 5),
    ("1234<|im_end|>", 1234),
    ("18</s>", 18),
    ("18 <|eot_id|><|end_of_text|>", 18),
    ("1st", 1),
    ("6th", 6),
    ("Rs.18", 18),
    ("18℃", 18),
    ("\\frac 12", Fraction(1, 2)),
    ("$\\underline{\\textbf{18}}$", 18),
    ("1\u200a234", 1234),
    ("My answer is 18.", 18),
    ("18[EOS]", 18),
    ("18<｜end▁of▁sentence｜>", 18),
    ("18 ml", 18),
    ("18 m", 18),
    ("18 GB", 18),
    ("18 T-shirts", 18),
    ("18 M&M's", 18),
    ("18 double rooms", 18),
    ("18 pairs of socks", 18),
    ("18 bags, one each", 18),
    ("18 = x", 18),
    ("18 = eighteen", 18),
    ("1,234 (one thousand two hundred thirty-four)", 1234),
]
REFUSED = [
    "",
    " ",
    "...",
    ".",
    ",",
    "-",
    "$",
    "--5",
    "-$-5",
    "+-5",
    "1,2,3",
    "1,23",
    "1,2345",
    "1234,567",
    "0,123",
    "1.2.3",
    "1.234,5",
    "NaN",
    "nan",
    "inf",
    "-inf",
    "Infinity",
    "five",
    "3 apples and 4 pears",
    "3-5",
    "3\u20135",
    "2:30",
    "5 + 3 = 8",
    "5+3",
    "5=5",
    "1/0",
    "1/2/3",
    "1/2.5",
    "1e999999999",
    "1e-999999999",
    "1e401",
    "0x10",
    "1_000",
    "5\u00b2",
    "\u0665",
    "5\u00bd",
    "\u00bd",
    "\uff15",
    "1 234",
    "5 million",
    "$2 billion",
    "5k",
    "2 dozen",
    "9" * 401,
    "**5",
    "<<5>>",
    "5^2",
    "5/x",
    "5 x²",
    "5 \u00b2",
    "1 3/2",
    "1  1/2",
    "1\u200b8",
    "1\u200b\u200b8",
    "(5)000",
    "(5),000",
    "(5).3",
    "*5*3",
    "(5)(3)",
    "-(5-3)",
    "-(-5",
    "(3, 5)",
    "12\u00a034",
    "1234\u00a0567",
    "9{,}50",
    "\\frac{1}{0}",
    "\\frac{1}{2",
    "\\boxed{5",
    "\\boxed{5}{3}",
    "5\\pi",
    "5\\times x",
    "5 + x",
    "5 - y",
    "5π",
    "5 or so",
    "5 or six",
    "5 and a half",
    "5 dollars and fifty cents",
    "5 thirds",
    "5 to six",
    "5; six",
    "5 is wrong",
    "5 isn't the answer",
    "The answer is not 5",
    "x = 5 or x = 6",
    "not 5",
    "$5/two",
    "1234<|im_end|>5",
    "5M",
    "5 = six",
    "5 double",
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_numbers_are_parsed_exactly(text: str, value: int | Fraction) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("5" + " " * 50_000 + "x>", 5), ("<|a|> " * 5_000 + "x>", None), ("5" + " <|a|>" * 5_000, 5)],
    ids=["spaces", "tokens", "end"],
)
def test_no_text_takes_long_to_read(text: str, value: int | None) -> None:
    """Minutes where an attempt to match begins at every character."""
    began = time.perf_counter()
    assert parse_number(text) == value
    assert time.perf_counter() - began < 2


def test_all_special_tokens_at_the_end_are_taken_off() -> None:
    assert parse_number("5 <|im_end|>\n</s> [PAD]") == parse_number("5<|" + "x" * 40 + "|><eos>") == 5


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_one_number_is_refused(text: str) -> None:
    assert parse_number(text) is None


SCORES = [  # output, reference, correct, flexible, unparseable
    ("<<48/2=24>>\n#### 72", "72", True, True, False),
    ("#### 72\n", "72", True, True, False),
    ("#### $72.00", "72", True, True, False),
    ("####72", "72", True, True, False),
    ("####   72", "72", True, True, False),
    ("#### 1234", "1,234", True, True, False),
    ("#### 1,234", "1234", True, True, False),
    ("#### 18.00", "18", True, True, False),
    ("#### 18.", "18", True, True, False),
    ("#### 5", "5.0", True, True, False),
    ("#### -3", "\u22123", True, True, False),
    ("#### 3", "-3", False, False, False),
    ("#### 1e3", "1000", True, True, False),
    ("#### 12\n#### 72", "72", True, True, False),
    ("#### 72\n#### 12", "72", False, False, False),
    ("#### 72 apples", "72", True, True, False),
    ("#### 72 of the 80", "72", False, False, True),
    ("#### 72\nand 5 more", "72", True, False, False),
    ("The answer is 72.", "72", False, True, True),
    ("The answer is 18", "18", False, True, True),
    ("She has 18 eggs ... left", "18", False, True, True),
    ("18 or 1,2,3", "18", False, False, True),
    ("80-8=72", "72", False, True, True),
    ("80-72", "72", False, True, True),
    ("it is -72", "-72", False, True, True),
    ("x=-72", "-72", False, True, True),
    ("80 - 72", "72", False, True, True),
    ("it is $-72 or -$72", "-72", False, True, True),
    ("on 1/2/2020", "2020", False, True, True),
    ("(80)-72", "72", False, True, True),
    ("it costs $1,200.50.", "1200.5", False, True, True),
    ("h72", "72", False, False, True),
    ("#### ", "72", False, False, True),
    ("####\n72", "72", False, True, True),
    ("#### ...", "72", False, False, True),
    ("#### NaN", "NaN", False, False, True),
    ("#### inf", "inf", False, False, True),
    ("#### x", "y", False, False, True),
    ("", "72", False, False, False),
    (" \n ", "72", False, False, False),
    ("#### 1e999999999", "inf", False, False, True),
    ("#### 1,2,3", "123", False, False, True),
    ("#### --5", "5", False, False, True),
    ("72 ####", "72", False, True, True),
    ("## 72", "72", False, True, True),
]  # fmt: skip


@pytest.mark.parametrize(("output", "reference", "correct", "flexible", "unparseable"), SCORES)
def test_scores(output: str, reference: str, correct: bool, flexible: bool, unparseable: bool) -> None:
    result = score(output, reference)
    assert (result.correct, result.flexible, result.unparseable) == (correct, flexible, unparseable)
    assert result.strict == result.correct
    assert result.empty == (not output.strip()) and not (result.empty and result.unparseable)
    assert (result.answer is None) == (result.unparseable or result.empty)


def test_extraction_returns_the_text_as_it_stands() -> None:
    assert extract("a 5\n#### $7.00 \nx 9") == answers.Extracted("$7.00", "9")
    assert extract("no number") == answers.Extracted(None, None)


def test_the_tolerance_is_absolute_and_zero_by_default() -> None:
    assert not score("#### 0.333", "1/3").correct
    assert score("#### 0.333", "1/3", tolerance=1e-3).correct
    assert not score("#### 0.3", "1/3", tolerance=1e-3).correct
    assert not score("#### x", "1/3", tolerance=1e9).correct
    assert score("#### 0.1", "0.1000").correct  # exact decimals, not binary floats


@pytest.mark.parametrize(
    ("output", "reference", "correct", "flexible"),
    [
        ("#### Tom is a lempus.", "Tom is a lempus.", True, True),
        ("steps\n####  tom is  a Lempus", "Tom is a lempus.", True, True),
        ("#### Tom is a lempus indeed", "Tom is a lempus.", False, False),
        ("Tom is a lempus.", "Tom is a lempus.", False, True),
        ("#### 5.0", "5", False, False),
        ("", "", False, False),
        ("####", "", False, False),
    ],
)
def test_answers_that_are_text(output: str, reference: str, correct: bool, flexible: bool) -> None:
    result = score(output, reference, kind="text")
    assert (result.correct, result.flexible) == (correct, flexible)


def test_auto_is_decided_by_the_reference() -> None:
    assert score("#### 5.0", "5", kind="auto").correct
    assert score("#### Yes", "yes", kind="auto").correct
    assert not score("#### yes", "5", kind="auto").correct


def test_canonical_form() -> None:
    for text, wanted in [
        ("18.00", "18"),
        ("1,234.50", "1234.5"),
        ("-1/3", "-1/3"),
        ("-0.05", "-0.05"),
        ("1/8", "0.125"),
        ("0", "0"),
    ]:
        value = parse_number(text)
        assert value is not None and canonical(value) == wanted and parse_number(canonical(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "9" * 200_000,
        "#### " + "1," * 100_000,
        "-" * 200_000,
        "#### 1e" + "9" * 100_000,
        "." * 200_000,
        " " * 200_000 + "x",
        "#### " + "\\boxed{" * 30_000,
        "#### " + "(" * 100_000 + ")" * 100_000,
        "#### 1" + "\u200b" * 200_000 + "1",
        "#### " + "*" * 200_000,
        "#### 1 " + "and " * 50_000,
        "#### 1 " + "is " * 50_000,
        "#### " + "<|a|>" * 40_000,
        "#### 1" + "\\frac{1}" * 20_000,
        "#### 1" + "\u00a0" * 200_000,
        "#### 1" + " " * 200_000 + "<|a|",
        "1 / " * 50_000,
        "$" * 200_000,
        "#### 1 " + "= " * 20_000,
        "#### 1 " + "one-" * 20_000,
        "#### 1 " + "less a" * 10_000,
    ],
)
def test_no_text_makes_the_scorer_slow(text: str) -> None:
    start = time.perf_counter()
    score(text, "5")
    lm_eval_flexible(text, "5")
    assert time.perf_counter() - start < 2


def test_lm_evals_own_traps_are_reproduced() -> None:
    assert not lm_eval_strict("#### $18", "18") and not lm_eval_strict("####18", "18")
    assert lm_eval_strict("#### 1234", "1,234") and lm_eval_strict("#### 18.", "18")
    assert not lm_eval_strict("#### 18.00", "18")
    assert lm_eval_strict("#### 18\n#### 5", "18")  # its first match, not the last
    assert not lm_eval_flexible("She has 18 eggs ... left", "18")
    assert not lm_eval_flexible("18.00", "18") and lm_eval_flexible("it is $18.", "18")


def test_secondary_columns_equal_lm_evals_filters_and_metric() -> None:
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    from lm_eval.api.metrics import exact_match_hf_evaluate

    strict = extraction.RegexFilter(regex_pattern=r"#### (\-?[0-9\.\,]+)")
    flexible = extraction.RegexFilter(regex_pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    outputs = [case[0] for case in SCORES] + [text for text, _ in NUMBERS] + [f"#### {text}" for text in REFUSED]
    references = sorted({case[1] for case in SCORES})
    for ours, theirs in ((lm_eval_strict, strict), (lm_eval_flexible, flexible)):
        for output, (found,) in zip(outputs, theirs.apply([[o] for o in outputs], [{}] * len(outputs)), strict=True):
            for reference in references:
                wanted = exact_match_hf_evaluate(
                    [found], [reference], regexes_to_ignore=[",", "\\$", "(?s).*#### ", "\\.$"], ignore_case=True
                )["exact_match"]
                assert ours(output, reference) == bool(wanted), (output, reference)


@pytest.mark.skipif(
    not os.environ.get("RIM_BENCH_DATA"), reason="RIM_BENCH_DATA is not set: the published files are not at hand"
)
def test_every_published_answer_scores_right_against_itself() -> None:
    rows = [
        json.loads(line)
        for line in (Path(os.environ["RIM_BENCH_DATA"]) / "gsm8k" / "test.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 1319
    for row in rows:
        reference = row["answer"].rpartition("####")[2].strip()
        result = score(row["answer"], reference)
        assert result.correct and result.flexible and lm_eval_strict(row["answer"], reference)


def test_no_wrong_answer_of_the_list_is_scored_right() -> None:
    wrong = wrong_answers()
    assert len(wrong) >= 500 and len({(w.reference, w.output) for w in wrong}) == len(wrong)
    scored = [(w, score(w.output, w.reference)) for w in wrong]
    assert [w for w, result in scored if result.correct] == []
    assert [w for w, result in scored if result.flexible and not w.last] == []


FORMS = [text for text, _ in NUMBERS]


@pytest.mark.parametrize("text", FORMS)
def test_both_extractions_read_every_form_behind_the_mark(text: str) -> None:
    plain = canonical(parse_number(text) or Fraction(0))
    reference = plain if parse_number(plain) is not None else text  # 1e400 written out is too long to read
    for output in (f"#### {text}", f"2 + 3 = 5\n#### {text}\n", f"#### {text}\nDone."):
        result = score(output, reference)
        assert result.correct and result.flexible, output


@pytest.mark.parametrize(
    "text",
    [
        *(
            "9{,}500",
            "\\$9{,}500",
            "\\boxed{9,500}",
            "\\(9500\\)",
            "9\u00a0500",
            "US$9500",
            "Rs. 9500",
            "₽9500",
            "9500¢",
        ),
        *("(9500)", '"9500"', "*9500*", "x = 9500", "$9500/hour", "9500 cm²", "**9500** apples", "9500<|im_end|>"),
        "19000 / 2",
    ],
)
def test_the_flexible_extraction_reads_them_without_the_mark(text: str) -> None:
    assert score(f"So it is {text}.", "9500").flexible
